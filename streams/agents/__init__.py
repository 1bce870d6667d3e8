"""Processing of each batch of records: cleaning and rolling features.

Each agent consists of a pure function of records and state, and a class that reads and writes Kafka and tables.
"""
