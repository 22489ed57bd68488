"""What the layers of two trained models do over a corpus each."""
