"""Hourly rows as arrays and the samples that models learn from."""
