"""The exchange's clock: elapsed real time multiplied by a speed, from a start time to the end of the history."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from marketdata.errors import InvalidValueError

MAX_SPEED = 1e6


class ReplayClock:
    """Exchange time: `speed` exchange seconds per real second; stops at speed 0 and at the end of the data."""

    def __init__(
        self,
        start_ms: int,
        data_start_ms: int,
        data_end_ms: int,
        speed: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the clock at `start_ms`.

        Raises:
            InvalidValueError: the start is outside the data, or the speed is not in [0, `MAX_SPEED`].
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
        if not 0 <= speed <= MAX_SPEED:
            raise InvalidValueError("speed", speed, f"0 to {MAX_SPEED:g}")
        return speed

    def _advance(self) -> None:
        real = self._monotonic()
        passed_ms = (real - self._anchor) * 1000 * self.speed
        self._anchor = real
        self._played_ms += passed_ms
        self._anchor_ms = min(self._anchor_ms + passed_ms, float(self.end_ms))

    def now_ms(self) -> int:
        """Return exchange time in Unix ms, at most the end of the data."""
        self._advance()
        return int(self._anchor_ms)

    def played_ms(self) -> float:
        """Return the exchange ms elapsed since creation; never decreases and continues past the end of the data."""
        self._advance()
        return self._played_ms

    @property
    def ended(self) -> bool:
        """True once the clock has reached the end of the data and stopped."""
        return self.now_ms() >= self.end_ms

    def steer(self, *, now_ms: int | None = None, advance_ms: int = 0, speed: float | None = None) -> None:
        """Set the time, advance it, or change the speed. Invalid values change nothing.

        Raises:
            InvalidValueError: the time is outside the data, the step is negative, or the speed is out of range.
        """
        self._advance()
        if advance_ms < 0:
            raise InvalidValueError("advance_ms", advance_ms, "0 or more")
        speed = self.speed if speed is None else self._checked_speed(speed)
        at_ms = self._anchor_ms if now_ms is None else self._checked(now_ms, "now_ms")
        target_ms = min(at_ms + advance_ms, float(self.end_ms))
        self._played_ms += max(target_ms - self._anchor_ms, float(advance_ms))
        self._anchor_ms = target_ms
        self.speed = speed


class StateFile:
    """Stores the exchange time across restarts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read_ms(self) -> int | None:
        """Return the stored time (ms), or None if the file does not exist.

        Raises:
            InvalidValueError: the file has another format.
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
        """Store a time. The file is replaced atomically, so a reader or a crash never sees a partial one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        temporary.write_text(json.dumps({"now_ms": now_ms}), encoding="utf-8")
        temporary.replace(self._path)
