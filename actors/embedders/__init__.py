"""Embedders that need an engine; each is an entry point of the group `evalservice.embedders`."""
