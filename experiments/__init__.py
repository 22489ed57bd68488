"""Holds the experiments that belong to the project but are not installed with the package."""
