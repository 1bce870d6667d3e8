"""Parsing and hourly aggregation as Spark SQL expressions."""
