"""SIGTERM and SIGINT as the batch programs take them: what is under way ends, files stay whole, the exit code is 0."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger(__name__)


class Stop:
    """A flag that the signals set. Before `running` is called a signal ends the program at once: nothing is open."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._cancel: Callable[[], object] | None = None

    def is_set(self) -> bool:
        return self._event.is_set()

    def running(self, cancel: Callable[[], object]) -> None:
        """From now on a signal sets the flag and calls `cancel`, in a thread of its own, to cut off what blocks us."""
        self._cancel = cancel
        self._take()  # PySpark wants SIGINT for itself

    def _handle(self, number: int, _frame: object) -> None:
        _log.info("%s: stopping", signal.Signals(number).name)
        self._event.set()
        if self._cancel is None:
            raise SystemExit(0)
        threading.Thread(target=self._cancel, name="cancel", daemon=True).start()

    def _take(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Take the signals for the length of a `with` block."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._take()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
