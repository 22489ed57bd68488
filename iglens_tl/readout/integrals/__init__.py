"""Integrals of values and gradients along straight lines between states."""
