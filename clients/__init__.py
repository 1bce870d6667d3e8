"""Shared by every program: Kafka and WebHDFS clients, clocks, child programs, stop signals and logging set-up."""
