"""Kafka for the worker: topics, delivery of records, delivered offsets, and Faust's options."""
