"""Compute the rolling features of a batch of one partition. Pure, apart from the states passed in.

There is one row per market and second of event time, made at the second's newest tick, and one per market at the end of
the batch, so that the last rows of a batch include all of its ticks.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
from aiokafka.structs import ConsumerRecord

from marketdata.bounds import MAX_TEXT
from marketdata.codec import decode, encode_finite
from marketdata.errors import DecodeError, InvalidValueError
from marketdata.features import MarketFeatures
from marketdata.quote_tick import decode_quote
from marketdata.records import Tick
from marketdata.tick_rules import ahead_of_clock
from marketdata.times import SECOND_MS, from_wire
from marketdata.vocabulary import Reason
from streams.agents.dead_letters import log_unexpected, refused
from streams.kafka.records import OutgoingRecord, source_offset_headers

log = logging.getLogger(__name__)

_UNDECODABLE = (msgspec.MsgspecError, InvalidValueError, TypeError, UnicodeDecodeError, RecursionError)


@dataclass(slots=True)
class Rolled:
    """The result of a batch. `touched` holds the keys whose state changed."""

    rows: list[OutgoingRecord] = field(default_factory=list)
    dead_letters: list[OutgoingRecord] = field(default_factory=list)
    touched: set[bytes] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)
    late: int = 0
    replayed: int = 0


@dataclass(slots=True)
class _Market:
    """A market of the batch: offset of its newest tick, and the second of event time whose row is not made yet."""

    state: MarketFeatures
    offset: int = -1
    second: int | None = None


def roll(  # noqa: C901  one pass without helper calls: it runs for every tick
    partition: int,
    records: Sequence[ConsumerRecord],
    load: Callable[[bytes], MarketFeatures],
    now_ms: int,
    max_future_ms: int,
) -> Rolled:
    """Add a batch to the states of its markets.

    Args:
        partition: of the source topic.
        records: of that partition, in order.
        load: returns the state of a key, the same object each time.
        now_ms: event time.
        max_future_ms: ticks ahead of `now_ms` by more than this are refused, because a single one would make all later
            ticks of its market late.
    """
    done = Rolled()
    latest_ms = now_ms + max_future_ms
    markets: dict[bytes, _Market] = {}
    for record in records:
        key = record.key
        try:
            quote = decode_quote(record.value)
            timestamp_ms = from_wire(quote.timestamp)
            market = markets.get(key)
            if market is None or market.state.symbol != quote.symbol:
                _check_key(record, quote.symbol)
                market = markets[key] = _Market(load(key))
            if timestamp_ms > latest_ms:
                raise ahead_of_clock(quote.timestamp, latest_ms)  # noqa: TRY301  handled like every other refusal
            state = market.state
            if state.mark_seen(partition, record.offset):
                done.replayed += 1
                continue
            second = timestamp_ms // SECOND_MS
            if market.second is not None and second > market.second:
                done.rows.append(_row(key, market))
            if not state.add(
                timestamp_ms,
                quote.bid_price,
                quote.bid_qty,
                quote.ask_price,
                quote.ask_qty,
                quote.traded_volume,
                quote.traded_value,
            ):
                done.late += 1
            market.offset = record.offset
            if market.second is None or second > market.second:
                market.second = second
        except Exception as error:  # noqa: BLE001  one record must not fail its batch; the dead letter keeps its bytes
            _refuse(done, record, error, now_ms)
    for key, market in markets.items():
        if market.second is not None:
            done.rows.append(_row(key, market))
            done.touched.add(key)
    # Rows carry source offsets, and the offset of an output's last record covers all records before it.
    done.rows.sort(key=_offset)
    return done


def _check_key(record: ConsumerRecord, symbol: str) -> None:
    if record.key != symbol.encode():
        raise InvalidValueError("key", record.key, f"the symbol {symbol!r} as UTF-8")
    if len(symbol) > MAX_TEXT:  # the symbol is part of every key of the table
        raise DecodeError(Reason.SYMBOL, "symbol", symbol, f"at most {MAX_TEXT} characters")


def _row(key: bytes, market: _Market) -> OutgoingRecord:
    return key, encode_finite(market.state.result()), source_offset_headers(market.offset)


def _offset(row: OutgoingRecord) -> int:
    return int(row[2][0][1])


def _refuse(done: Rolled, record: ConsumerRecord, error: Exception, now_ms: int) -> None:
    reason: str = Reason.NOT_A_TICK
    if not isinstance(error, _UNDECODABLE):
        reason = Reason.UNEXPECTED
        log_unexpected(log, record, error)
    elif isinstance(error, DecodeError):
        reason = error.reason
    elif not isinstance(error, InvalidValueError):  # decode the whole tick, which names field and value
        try:
            decode(Tick, record.value)
        except DecodeError as named:
            error, reason = named, named.reason
    done.reasons.append(reason)
    done.dead_letters.append(refused(record, error, reason, now_ms))
