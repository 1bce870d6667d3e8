"""HDFS access of the batch jobs through Spark's JVM: file store, writer lease, and translation of Java errors."""
