"""Programs to compare with; each prints one JSON line on standard output: records, seconds, cpu_s."""
