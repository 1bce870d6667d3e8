"""The domain model of the project: markets, records, codec, topics, enrichment, windows and features.

Pure: import-linter contracts in pyproject.toml forbid Kafka, HTTP, HDFS, Spark and Keras clients, the modules of the
standard library that open files and sockets or read the clock and the environment, and every other package here.
"""

__version__ = "0.1.0"
