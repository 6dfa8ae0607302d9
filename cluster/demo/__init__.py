"""The demo: a benchmark of arithmetic that is generated here, and two small models that were trained on it here."""
