"""The Faust stream processor: collects, cleans, keeps rolling features, serves views."""
