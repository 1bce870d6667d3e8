"""The commands of `faust -A streams`; Faust registers a command when its class is made, so importing them is enough."""

__all__ = ["NAMES", "register"]

NAMES = ("collect-once", "tail", "features", "predictions", "dead-letters", "replay", "topics", "check")


def register() -> None:
    """Make the commands known to Faust's command line."""
    from streams.commands import dead_letters as letters
    from streams.commands import operate, replay, show

    assert letters and operate and show and replay  # noqa: S101, PT018  what matters is that they were imported
