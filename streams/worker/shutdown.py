"""Bounded shutdown of a worker, whether or not the brokers answer.

On shutdown Faust commits offsets and flushes the producer, and waits for both without a timeout while Kafka is down.
Skipping them loses no record on a topic: the next start continues from the committed offsets. Polled ticks and stream
intervals that Kafka had not acknowledged are lost, as after SIGKILL.
"""

import logging
import os
import threading
from signal import SIGINT, Signals
from typing import Any

import faust

log = logging.getLogger(__name__)

STOP_S = 4.0  # users, supervisors and rolling restarts wait for 5 s


class BoundedWorker(faust.Worker):
    """Faust's worker that ends the process `STOP_S` after the first signal at the latest."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spinner = None  # it writes escape codes, even into files

    def _on_sigint(self) -> None:
        self._flag_as_shutdown_by_signal()
        self._schedule_shutdown(SIGINT)  # like Faust's, without printing -INT- -INT-

    def _schedule_shutdown(self, signal: Signals) -> None:
        # A thread, because the event loop itself may be blocked.
        end = threading.Timer(STOP_S, _end)
        end.daemon = True
        end.start()
        super()._schedule_shutdown(signal)


def _end() -> None:
    log.warning(
        "no clean shutdown within %.0f s, because no broker answers: exiting; uncommitted records are read again,"
        " unacknowledged ticks of a poll or of the stream's open intervals are lost",
        STOP_S,
    )
    logging.shutdown()
    os._exit(0)
