"""Bounded shutdown of a worker, after a signal or a crash, whether or not the brokers answer.

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
    """Faust's worker that ends the process `STOP_S` after the first signal or crash at the latest."""

    _ending = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spinner = None  # it writes escape codes, even into files

    def _on_sigint(self) -> None:
        self._flag_as_shutdown_by_signal()
        self._schedule_shutdown(SIGINT)  # like Faust's, without printing -INT- -INT-

    def _schedule_shutdown(self, signal: Signals) -> None:
        self._end_soon(0)
        super()._schedule_shutdown(signal)

    def _crash(self, reason: BaseException) -> None:
        self._end_soon(1)
        super()._crash(reason)

    def _end_soon(self, exit_code: int) -> None:
        if self._ending:
            return
        self._ending = True
        # A thread, because the event loop itself may be blocked.
        end = threading.Timer(STOP_S, _end, [exit_code])
        end.daemon = True
        end.start()


def exit_at_once(reason: str) -> None:
    """End this process without clean-up, as by SIGKILL, which loses nothing; a supervisor restarts it."""
    log.error("%s: exiting without clean-up, restart the worker", reason)
    logging.shutdown()
    os._exit(1)


def _end(exit_code: int) -> None:
    log.warning(
        "no clean shutdown within %.0f s, because no broker answers: exiting; uncommitted records are read again,"
        " unacknowledged ticks of a poll or of the stream's open intervals are lost",
        STOP_S,
    )
    logging.shutdown()
    os._exit(exit_code)
