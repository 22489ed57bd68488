"""The tuned lens of the embedded model."""
