"""SIGTERM and SIGINT as requests to stop: an event for programs with an event loop, a flag for blocking ones."""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger(__name__)


def stop_event(*, on_hangup: bool = False) -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; call it in the running event loop of the main thread.

    Args:
        on_hangup: SIGHUP sets the event too, as when the terminal of a foreground program closes.
    """
    stop = asyncio.Event()
    for number in (*_SIGNALS, signal.SIGHUP) if on_hangup else _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


class StopFlag:
    """A flag that the signals set. Until `running` is called, a signal ends the program at once with exit code 0.

    Args:
        before_exit: called before the program is ended.
    """

    def __init__(self, before_exit: Callable[[], object] = lambda: None) -> None:
        self._event = threading.Event()
        self._before_exit = before_exit
        self._cancel: Callable[[], object] | None = None

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until the flag is set, at most some seconds; return whether it is set."""
        return self._event.wait(seconds)

    def running(self, cancel: Callable[[], object]) -> None:
        """From now on a signal sets the flag and calls `cancel` in a thread, to interrupt a blocking call."""
        self._cancel = cancel
        self._install()  # again: PySpark installs its own SIGINT handler

    def idle(self) -> None:
        """From now on a signal ends the program at once again, as before `running`."""
        self._cancel = None

    def _handle(self, number: int, _frame: object) -> None:
        _log.info("%s: stopping", signal.Signals(number).name)
        self._event.set()
        if self._cancel is None:
            for one in _SIGNALS:
                signal.signal(one, signal.SIG_IGN)  # the program ends; a further signal would interrupt that
            self._before_exit()
            raise SystemExit(0)
        threading.Thread(target=self._cancel, name="cancel", daemon=True).start()

    def _install(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Handle the signals inside a `with` block; the previous handlers are restored after it."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
