"""Settings of every program here: one frozen, typed tree, the clock that it chooses, Kafka's clients by its words.

The only package that reads the environment. It imports marketdata alone.
"""

from config.settings import Settings, load_settings

__all__ = ["Settings", "load_settings"]
