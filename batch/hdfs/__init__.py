"""HDFS access of the batch jobs: file store, writer lease, and a reader without Spark."""
