"""Kafka as the worker uses it: topics, delivery of records, and Faust's options."""
