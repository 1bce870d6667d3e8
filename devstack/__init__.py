"""The local stack (Kafka, HDFS, the simulated exchange) and the demo, which runs the whole product on it.

The demo starts streams, batch and forecasting as separate programs.
"""
