"""Parsing of Kafka records in Spark SQL."""
