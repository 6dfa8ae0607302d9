"""Metrics over time and across models."""
