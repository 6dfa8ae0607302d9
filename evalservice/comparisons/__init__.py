"""A/B tests and experiments."""
