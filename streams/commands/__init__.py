"""The commands of `faust -A streams`; Faust registers a command when its class is defined, so importing suffices."""

__all__ = ["NAMES", "register"]

NAMES = ("collect-once", "tail", "features", "predictions", "dead-letters", "replay", "topics", "check")


def register() -> None:
    """Register the commands with Faust's command line."""
    from streams.commands import dead_letters, operate, replay, show

    assert dead_letters and operate and show and replay  # noqa: S101, PT018  imported for registration
