"""Spark jobs: raw ticks, candles and hourly rows on HDFS, backfill, verify."""
