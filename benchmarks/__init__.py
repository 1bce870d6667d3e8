"""Measurements, run by `make bench`, never by the tests: medians of repeats, ratios against a peer in the same run."""
