"""Runs compared, A/B tests, experiments, and runs that have become worse."""

MIN_COVERAGE = 0.98
MAX_COVERAGE_GAP = 0.01
"""What is compared has scores for this share of its test cases at least, and for shares no further apart than that: who
answers only what they know looks better than they are."""
