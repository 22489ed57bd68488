"""Figures of the IG-Lens paper and its neighbours, one module each, for any model."""
