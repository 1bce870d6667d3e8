"""aiokafka clients: connecting and closing, topics, reading without a group, and the ownership of partitions."""
