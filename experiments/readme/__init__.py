"""The picture in the README."""
