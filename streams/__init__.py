"""The Faust stream processor: collects ticks, cleans them, computes rolling features and serves the views.

`faust -A streams …` finds the application as `streams.app`, which is built on first access: importing the package reads
no settings and opens nothing.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Build `streams.app` on first use.

    Raises:
        AttributeError: for any other name.
        SystemExit: the settings are invalid; one line on stderr names the problem.
    """
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from streams.application import app_from_environment

    app = globals()["app"] = app_from_environment()
    return app
