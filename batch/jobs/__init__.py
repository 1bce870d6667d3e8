"""The batch jobs: raw stream, backfill and verification, and the functions that run them (`run`)."""
