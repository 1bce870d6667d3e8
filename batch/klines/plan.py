"""Plans which klines a backfill requests: those that are not stored yet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exchanges.binance.endpoints import KLINES_PER_REQUEST
from marketdata.candle_rules import STEP_MS
from marketdata.markets import Market
from marketdata.times import DAY_MS, HOUR_MS, floor_to


@dataclass(frozen=True, slots=True)
class Span:
    """Klines of one market and interval with open times in [from_ms, to_ms); fits into one request."""

    market: Market
    interval: str
    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The klines to request.

    Attributes:
        spans: requests to send.
        hours: by symbol, the hours (start times, ms) whose hourly rows are to be made from one-hour klines.
    """

    spans: tuple[Span, ...]
    hours: dict[str, set[int]]


def missing_ranges(stored: set[int], from_ms: int, to_ms: int, step_ms: int) -> list[tuple[int, int]]:
    """Return the [from, to) ranges of the grid whose times are not in `stored`."""
    ranges: list[tuple[int, int]] = []
    for at in range(from_ms, to_ms, step_ms):
        if at in stored:
            continue
        if ranges and ranges[-1][1] == at:
            ranges[-1] = (ranges[-1][0], at + step_ms)
        else:
            ranges.append((at, at + step_ms))
    return ranges


def make_plan(
    markets: Sequence[Market],
    stored_hours: dict[str, set[int]],
    stored_minutes: dict[str, set[int]],
    *,
    hours: int,
    minutes: int,
    to_ms: int,
) -> Plan:
    """Plan the requests after which the last `hours` and `minutes` before `to_ms` are stored.

    Only closed hours and minutes are requested, and minutes start on a whole hour. One-hour klines start 23 h before
    the first missing row, because its volatility needs the trailing day.

    Args:
        markets: the markets to fill.
        stored_hours: by symbol, the hours (start times, ms) that have an hourly row.
        stored_minutes: by symbol, the open times (ms) of the stored candles.
        hours: number of hours before `to_ms`.
        minutes: number of minutes before `to_ms`, extended to a whole hour.
        to_ms: Unix time, ms.
    """
    last_hour, last_minute = floor_to(to_ms, HOUR_MS), floor_to(to_ms, STEP_MS["1m"])
    first_hour = last_hour - hours * HOUR_MS
    first_minute = floor_to(last_minute - minutes * STEP_MS["1m"], HOUR_MS)
    spans: list[Span] = []
    missing_hours: dict[str, set[int]] = {}
    for market in markets:
        stored = stored_hours.get(market.symbol, set())
        for start, end in missing_ranges(stored, first_hour, last_hour, HOUR_MS):
            spans += _split(market, "1h", start - DAY_MS + HOUR_MS, end)
            missing_hours.setdefault(market.symbol, set()).update(range(start, end, HOUR_MS))
        if minutes:
            stored = stored_minutes.get(market.symbol, set())
            for start, end in missing_ranges(stored, first_minute, last_minute, STEP_MS["1m"]):
                spans += _split(market, "1m", start, end)
    return Plan(tuple(spans), missing_hours)


def _split(market: Market, interval: str, from_ms: int, to_ms: int) -> Iterable[Span]:
    step_ms = KLINES_PER_REQUEST * STEP_MS[interval]
    return (Span(market, interval, at, min(at + step_ms, to_ms)) for at in range(from_ms, to_ms, step_ms))
