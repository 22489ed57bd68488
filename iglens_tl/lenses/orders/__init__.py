"""Credit orders: who is credited first, and who is recomputed."""
