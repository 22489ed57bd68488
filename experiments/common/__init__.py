"""What several experiments and benchmarks need."""
