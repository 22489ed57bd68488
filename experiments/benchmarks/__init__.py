"""Benchmarks: ratios of two things that are measured in one run."""
