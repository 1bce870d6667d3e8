"""Model versions on HDFS, promotion rules and stored walk-forward losses."""
