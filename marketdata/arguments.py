"""Arguments of command lines: one type for each kind of value, for argparse, and for click through a wrapper.

A type is a function of the text. It raises `ArgumentTypeError`, whose message follows the name of the option.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from marketdata.errors import ArgumentError, InvalidValueError, shorten
from marketdata.markets import close_matches
from marketdata.printable import write_error
from marketdata.times import from_wire

MAX_COUNT = 1_000_000
"""The largest number of records that a command shows."""
MAX_PORT = 65_535
MAX_SEED = 2**32 - 1
"""NumPy and Keras accept seeds of 32 bits."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Parser(argparse.ArgumentParser):
    """A parser that refuses arguments with one line on standard error, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit.

        Raises:
            SystemExit: always, with code 2.
        """
        write_error(sys.stderr, f"{self.prog}: {' '.join(message.split())} (see --help)")
        raise SystemExit(ArgumentError.exit_code)


def _refused(text: str, expected: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{shorten(repr(text))}: expected {expected}")


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """Return the type of whole numbers from `lowest` to `highest`: counts, durations, ports, seeds."""

    def whole(text: str) -> int:
        if _WHOLE.fullmatch(text) is None or not lowest <= int(text) <= highest:
            raise _refused(text, f"a whole number from {lowest} to {highest}")
        return int(text)

    return whole


def number(lowest: float, highest: float) -> Callable[[str], float]:
    """Return the type of finite numbers from `lowest` to `highest`."""

    def finite(text: str) -> float:
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not lowest <= value <= highest:
            raise _refused(text, f"a number from {lowest:g} to {highest:g}")
        return value

    return finite


def time_range(
    start: str | None, end: str | None, first: str = "--from", last: str = "--to"
) -> tuple[int | None, int | None]:
    """Parse the first and last time of a range into ms; None: unbounded.

    Args:
        start: the first time, RFC 3339.
        end: the end, exclusive.
        first: name of the option of `start`, for the error.
        last: name of the option of `end`.

    Raises:
        ArgumentError: one is not a time of a record, or the range is empty.
    """
    times: list[int | None] = []
    for option, text in ((first, start), (last, end)):
        try:
            times.append(None if text is None else from_wire(text))
        except InvalidValueError as error:
            raise ArgumentError(option, text, error.expected) from error
    from_ms, to_ms = times
    if from_ms is not None and to_ms is not None and to_ms <= from_ms:
        raise ArgumentError(last, end, f"a time after {first} ({start})")
    return from_ms, to_ms


def find_market(text: str, markets: Sequence[str], argument: str = "market") -> str:
    """Return the symbol of a market among those of the settings, whatever its case.

    Args:
        text: the argument's value.
        markets: symbols of the settings.
        argument: name of the argument, for the error.

    Raises:
        ArgumentError: the market is not configured.
    """
    symbol = text.strip().upper()
    if symbol not in markets:
        raise ArgumentError(argument, text, f"one of {', '.join(markets)}{close_matches(text, markets)}")
    return symbol
