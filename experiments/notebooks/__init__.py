"""The notebooks: executing them, so that what they show is what the package computes."""
