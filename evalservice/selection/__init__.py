"""Routing decisions and their log."""
