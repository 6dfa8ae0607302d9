"""Organizations: identity, roles, keys, and provider credentials."""
