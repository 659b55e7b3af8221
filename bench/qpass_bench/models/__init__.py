"""Real models and texts in plain Flax and Python; nothing here knows of quantization."""
