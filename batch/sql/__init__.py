"""Parsing of Kafka records and hourly aggregation in Spark SQL."""
