"""Peer programs for comparison; each prints one JSON line: records, seconds, cpu_s."""
