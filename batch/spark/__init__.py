"""The Spark session, Kafka options for Spark, and the dead-letter writer."""
