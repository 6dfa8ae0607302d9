"""What every route shares: the caller and their transaction, pages, idempotency, problems, middleware."""
