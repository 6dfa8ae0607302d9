"""Models that run on our own machines: vLLM and transformers behind the port of every model."""
