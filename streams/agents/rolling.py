"""Rolling features of a batch of one partition: pure but for the states it is handed.

A row is made for the newest tick of each market and second of event time, and for each market at the end of the batch,
so that every batch ends with rows that hold all of it. It must never touch Kafka, a table or Faust.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
from aiokafka.structs import ConsumerRecord

from marketdata.codec import encode
from marketdata.errors import InvalidValueError
from marketdata.features import MarketFeatures, decode_quote
from marketdata.times import SECOND_MS, from_rfc3339
from streams.agents.letters import UNEXPECTED_REASON, dead_letter
from streams.batching import Item
from streams.delivered import header

log = logging.getLogger(__name__)

UNDECODABLE_REASON = "not_a_tick"


@dataclass(slots=True)
class Rolled:
    """What a batch came to. `touched` holds the keys whose state changed."""

    rows: list[Item] = field(default_factory=list)
    letters: list[Item] = field(default_factory=list)
    touched: set[bytes] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)
    late: int = 0
    replayed: int = 0


@dataclass(slots=True)
class _Open:
    """A market whose newest ticks are not in a row yet."""

    state: MarketFeatures
    offset: int
    second: int


def roll(
    partition: int, records: Sequence[ConsumerRecord], load: Callable[[bytes], MarketFeatures], now_ms: int
) -> Rolled:
    """Add a batch to the states of its markets.

    Args:
        partition: of the source topic.
        records: of that partition, in order.
        load: the state of a key, the same object each time.
        now_ms: event time, for dead letters.
    """
    done = Rolled()
    waiting: dict[bytes, _Open] = {}
    for record in records:
        try:
            quote = decode_quote(record.value)
            timestamp_ms = from_rfc3339(quote.timestamp)
            _check_key(record, quote.symbol)
            state = load(record.key)
        except (msgspec.MsgspecError, InvalidValueError, TypeError, UnicodeDecodeError) as error:
            done.reasons.append(UNDECODABLE_REASON)
            done.letters.append(_letter(record, error, UNDECODABLE_REASON, now_ms))
            continue
        except Exception as error:  # one record must not take its batch with it; its letter keeps the bytes
            log.exception("%s-%d@%d cannot be processed", record.topic, record.partition, record.offset)
            done.reasons.append(UNEXPECTED_REASON)
            done.letters.append(_letter(record, error, UNEXPECTED_REASON, now_ms))
            continue
        if state.seen(partition, record.offset):
            done.replayed += 1
            continue
        done.touched.add(record.key)
        second = timestamp_ms // SECOND_MS
        opened = waiting.get(record.key)
        if opened is None:
            opened = waiting[record.key] = _Open(state, record.offset, second)
        elif second > opened.second:
            done.rows.append(_row(record.key, opened))
            opened.second = second
        opened.offset = record.offset
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
    for key, opened in waiting.items():
        done.rows.append(_row(key, opened))
    # Rows carry source offsets, and what an output's last record says counts for all before it.
    done.rows.sort(key=_offset)
    return done


def _check_key(record: ConsumerRecord, symbol: str) -> None:
    if record.key != symbol.encode():
        raise InvalidValueError("key", record.key, f"the symbol {symbol!r} as UTF-8")


def _row(key: bytes, opened: _Open) -> Item:
    return key, encode(opened.state.result()), header(opened.offset)


def _offset(item: Item) -> int:
    return int(item[2][0][1])


def _letter(record: ConsumerRecord, error: Exception, reason: str, now_ms: int) -> Item:
    return record.key, encode(dead_letter(record, error, reason, now_ms)), header(record.offset)
