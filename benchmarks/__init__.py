"""Benchmarks, run by `make bench`: medians of repetitions, and ratios to a peer measured in the same run."""
