"""Settings of all programs: one frozen, typed tree, read from profiles, a TOML file and the environment."""

from config.settings import Settings, load_settings

__all__ = ["Settings", "load_settings"]
