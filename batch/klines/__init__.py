"""Klines from local files: downloaded archives."""
