"""Model versions and walk-forward losses on HDFS, and the promotion rules."""
