"""Batch processing for Faust: one event per partition and poll."""
