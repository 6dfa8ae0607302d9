"""Statistics: intervals, paired tests, sequential tests, power, ratings. Pure functions over numpy arrays."""
