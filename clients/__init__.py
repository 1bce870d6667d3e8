"""Clients shared by every program: Kafka, WebHDFS and the clock."""
