"""The commands of `faust -A streams`; Faust registers a command when its class is made, so importing them is enough."""

__all__ = ["NAMES", "register"]

NAMES = ("collect-once", "tail", "features", "predictions", "dead-letters", "topics", "check")


def register() -> None:
    """Make the commands known to Faust's command line."""
    from streams.commands import operating, reading

    assert operating, reading  # noqa: S101  what matters is that they were imported
