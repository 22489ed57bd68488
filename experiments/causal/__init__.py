"""What the causal experiments share."""
