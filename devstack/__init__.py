"""The local stack: Kafka and HDFS from their jars, the simulated exchange, and the demo that runs the whole product.

Imports marketdata and config alone; streams, batch and forecasting are run as programs of their own, never imported.
"""
