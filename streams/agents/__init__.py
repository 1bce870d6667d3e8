"""What the worker does with each batch of records: cleaning, rolling features.

Each agent is a function of (records, state) and a thin part that moves bytes; it must never make HTTP calls.
"""
