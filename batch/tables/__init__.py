"""The three Parquet tables: file layout, merging, and hourly rows that are due."""
