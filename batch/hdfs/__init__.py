"""HDFS as the batch jobs use it: store, reader and writer lease."""
