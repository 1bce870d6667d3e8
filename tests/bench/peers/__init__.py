"""Programs that a bench compares with; each prints one JSON line on standard output: {"records": …, "seconds": …}."""
