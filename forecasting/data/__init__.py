"""Hourly rows as arrays, and the samples that models are trained on."""
