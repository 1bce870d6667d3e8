"""Apply the cleaning rules to a batch of one partition. Pure, apart from the states passed in."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aiokafka.structs import ConsumerRecord
from msgspec import structs

from marketdata import tick_rules
from marketdata.bounds import MAX_ITEMS
from marketdata.codec import decode, encode
from marketdata.errors import DecodeError
from marketdata.records import Tick
from marketdata.rules import check_key
from marketdata.vocabulary import Reason, TickFlag
from streams.agents.dead_letters import log_unexpected, refused
from streams.agents.seen import REMEMBERED, Seen
from streams.kafka.records import OutgoingRecord, source_offset_headers

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Cleaned:
    """The result of a batch. `states` holds the states of the keys in the batch."""

    ticks: list[OutgoingRecord] = field(default_factory=list)
    dead_letters: list[OutgoingRecord] = field(default_factory=list)
    states: dict[bytes, Seen] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    duplicates: int = 0
    late: int = 0
    replayed: int = 0
    jumps: int = 0


def clean(
    records: Sequence[ConsumerRecord],
    load: Callable[[bytes], Seen],
    now_ms: int,
    *,
    lateness_ms: int,
    max_future_ms: int,
    delivered: int,
    remembered: int = REMEMBERED,
    max_move: float = math.inf,
) -> Cleaned:
    """Sort a batch into clean ticks, duplicates and dead letters.

    Args:
        records: of one partition, in order.
        load: returns the stored state of a key.
        now_ms: event time.
        lateness_ms: ticks older than the market's newest by more than this are counted as late; they pass.
        max_future_ms: ticks ahead of `now_ms` by more than this are refused.
        delivered: clean ticks of offsets up to this one were sent before; they are added to the state but not sent.
        remembered: number of timestamps kept per market to detect duplicates.
        max_move: a tick whose mid (price, if it has none) differs from the market's previous one by a factor above
            this, or below 1 / max_move, is flagged `jump`; it passes.
    """
    done = Cleaned()
    latest_ms = now_ms + max_future_ms
    for record in records:
        try:  # one record must not fail its batch; the dead letter keeps its bytes
            tick = decode(Tick, record.value)
            timestamp_ms = check(tick, record.key, latest_ms)
            key: bytes = record.key
            state = done.states.get(key)
            if state is None:
                state = done.states[key] = load(key)
            if record.offset <= state.offset:
                done.replayed += 1
                continue
            state.offset = record.offset
            newest_ms = state.newest_ms
            if not state.add(timestamp_ms, remembered):
                done.duplicates += 1
                continue
            if newest_ms is not None and timestamp_ms < newest_ms - lateness_ms:
                done.late += 1
            value = record.value
            if (newest_ms is None or timestamp_ms > newest_ms) and not state.follow(_price(tick), max_move):
                value = encode(structs.replace(tick, flags=(*tick.flags, TickFlag.JUMP)[-MAX_ITEMS:]))
                done.jumps += record.offset > delivered
            if record.offset > delivered:
                done.ticks.append((key, value, source_offset_headers(record.offset)))
        except DecodeError as error:
            done.reasons.append(error.reason)
            done.dead_letters.append(refused(record, error, error.reason, now_ms))
        except Exception as error:  # noqa: BLE001  logged with its traceback
            log_unexpected(log, record, error)
            done.reasons.append(Reason.UNEXPECTED)
            done.dead_letters.append(refused(record, error, Reason.UNEXPECTED, now_ms))
    return done


def check(tick: Tick, key: bytes | None, latest_ms: int) -> int:
    """Check a tick against its key, the rules and the clock; return its event time in ms.

    Args:
        tick: decoded from the record.
        key: of the record.
        latest_ms: latest event time allowed.

    Raises:
        DecodeError: the first broken rule, with its reason code.
    """
    check_key(key, tick.symbol)
    return tick_rules.check(tick, latest_ms)


def _price(tick: Tick) -> float:
    """Return the mid, or the price if there is no mid; a tick that passed the rules has one of them."""
    if tick.bid_price is not None and tick.ask_price is not None:
        return (tick.bid_price + tick.ask_price) / 2
    return math.nan if tick.price is None else tick.price
