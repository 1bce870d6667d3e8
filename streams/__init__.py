"""The Faust stream processor: collects, cleans, keeps rolling features, serves views.

`faust -A streams …` finds the application as `streams.app`, which is built when it is first asked for and not before:
importing the package reads no settings and opens nothing. It must never import batch, forecasting or devstack.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Build `streams.app` on first use.

    Raises:
        AttributeError: another name was asked for.
        SystemExit: the settings cannot be used; one clear line stands on stderr.
    """
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from streams.application import app_from_environment

    app = globals()["app"] = app_from_environment()
    return app
