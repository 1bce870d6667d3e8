"""A worker that ends when it is told to, whatever the broker does.

Faust's stop commits offsets and flushes the producer, and waits for both without an end while Kafka is away. Of what
lies on a topic nothing is lost when they are left out: a start after a kill goes on from what was committed. What Kafka
had not taken of a poll or of the stream's intervals is lost, as in a kill. It must never hold other logic.
"""

import logging
import os
import threading
from signal import SIGINT, Signals
from typing import Any

import faust

log = logging.getLogger(__name__)

STOP_S = 4.0  # a user, a supervisor and a rolling restart wait for 5 s


class BoundedWorker(faust.Worker):
    """Faust's worker, which ends the process `STOP_S` after the first signal if it has not ended by then."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spinner = None  # it writes escape codes, into files too

    def _on_sigint(self) -> None:
        self._flag_as_shutdown_by_signal()
        self._schedule_shutdown(SIGINT)  # as Faust's own, without its -INT- -INT-

    def _schedule_shutdown(self, signal: Signals) -> None:
        # A thread, for the event loop itself may be what hangs.
        end = threading.Timer(STOP_S, _end)
        end.daemon = True
        end.start()
        super()._schedule_shutdown(signal)


def _end() -> None:
    log.warning(
        "not stopped after %.0f s: the broker does not answer; ended as it is: what lies on its topics is read again,"
        " what it has not taken of a poll or of the stream's open intervals is lost",
        STOP_S,
    )
    logging.shutdown()
    os._exit(0)
