"""The path study: what credits depend on, besides the model."""
