"""The exchange's clock: real elapsed time times a speed, from a start to the end of the history; steerable.

Must never import the server.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from marketdata.errors import InvalidValueError

HIGHEST_SPEED = 1e6


class ReplayClock:
    """Exchange time: `speed` exchange seconds a real second; it stands still at speed 0 and at the end of its data."""

    def __init__(
        self,
        start_ms: int,
        data_start_ms: int,
        data_end_ms: int,
        speed: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """A clock that shows `start_ms` now.

        Raises:
            InvalidValueError: the start lies outside the data, or the speed is no number from 0 up.
        """
        self.start_ms = start_ms
        self.data_start_ms = data_start_ms
        self.end_ms = data_end_ms
        self._monotonic = monotonic
        self._anchor = monotonic()
        self._anchor_ms = float(self._checked(start_ms, "start"))
        self._played_ms = 0.0
        self.speed = self._checked_speed(speed)

    def _checked(self, ms: float, field: str) -> float:
        if not self.data_start_ms <= ms <= self.end_ms:
            raise InvalidValueError(field, ms, f"a time within the data, {self.data_start_ms} to {self.end_ms}")
        return ms

    @staticmethod
    def _checked_speed(speed: float) -> float:
        if not 0 <= speed <= HIGHEST_SPEED:
            raise InvalidValueError("speed", speed, f"0 to {HIGHEST_SPEED:g}")
        return speed

    def _run_on(self) -> None:
        real = self._monotonic()
        passed_ms = (real - self._anchor) * 1000 * self.speed
        self._anchor = real
        self._played_ms += passed_ms
        self._anchor_ms = min(self._anchor_ms + passed_ms, float(self.end_ms))

    def now_ms(self) -> int:
        """Exchange time, UTC ms; never beyond the end of the data."""
        self._run_on()
        return int(self._anchor_ms)

    def played_ms(self) -> float:
        """Exchange ms that have passed since the clock was made, on past the end of the data; it only ever grows."""
        self._run_on()
        return self._played_ms

    @property
    def ended(self) -> bool:
        """The end of the data is reached: time stands still."""
        return self.now_ms() >= self.end_ms

    def steer(self, *, now_ms: int | None = None, advance_ms: int = 0, speed: float | None = None) -> None:
        """Set the time, step it forward, change its speed; all or nothing.

        Raises:
            InvalidValueError: a time outside the data, a step backwards, a speed below 0.
        """
        self._run_on()
        if advance_ms < 0:
            raise InvalidValueError("advance_ms", advance_ms, "0 or more")
        speed = self.speed if speed is None else self._checked_speed(speed)
        at_ms = self._anchor_ms if now_ms is None else self._checked(now_ms, "now_ms")
        target_ms = min(at_ms + advance_ms, float(self.end_ms))
        self._played_ms += max(target_ms - self._anchor_ms, float(advance_ms))
        self._anchor_ms = target_ms
        self.speed = speed


class StateFile:
    """Keeps the exchange time over restarts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read_ms(self) -> int | None:
        """The time that was kept; None where there is no file yet.

        Raises:
            InvalidValueError: the file is not one of ours.
        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            return int(json.loads(text)["now_ms"])
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidValueError("state-file", str(self._path), 'a file with {"now_ms": ms}') from error

    def write_ms(self, now_ms: int) -> None:
        """Keep a time: replaced whole, so that no reader and no crash sees half of it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        fresh.write_text(json.dumps({"now_ms": now_ms}), encoding="utf-8")
        fresh.replace(self._path)
