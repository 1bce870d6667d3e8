"""aiokafka clients: connection options, closing, and reading a topic without a consumer group."""
