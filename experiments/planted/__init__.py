"""Models whose answer to "which layer?" is known, because their weights are written by hand."""
