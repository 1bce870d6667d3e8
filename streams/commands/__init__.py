"""The commands of `faust -A streams`."""

from typing import Any


def attach(app: Any) -> None:
    """Add the commands to the application."""
