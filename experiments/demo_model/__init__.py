"""Builds the small language model that ships with the package."""
