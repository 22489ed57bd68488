"""Decomposition: the credits of layers split over the parts of their updates."""
