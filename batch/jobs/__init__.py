"""The batch jobs: raw stream, hourly rows, backfill, verify."""
