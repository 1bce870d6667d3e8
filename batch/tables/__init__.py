"""The three Parquet tables: file layout, merging of rows, and the writer of hourly rows."""
