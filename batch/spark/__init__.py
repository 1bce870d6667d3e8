"""The Spark session, its Kafka options, and dead letters written from Spark."""
