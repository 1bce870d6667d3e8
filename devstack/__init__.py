"""The local stack: Kafka and HDFS from their jars, the simulated exchange, the demo."""
