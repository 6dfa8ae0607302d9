"""The standard benchmarks: a YAML file each says where the data lies, how it is read, asked and scored. No data."""
