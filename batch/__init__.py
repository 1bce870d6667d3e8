"""Spark jobs on HDFS: raw ticks and candles, hourly rows, backfill, verification."""
