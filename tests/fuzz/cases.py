"""Seeded records: valid ones, ones with an odd field, damaged bytes and arbitrary bytes."""

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from aiokafka.structs import ConsumerRecord
from msgspec.structs import replace

from forecasting.evaluation.scoring import level_name
from forecasting.models.interface import LEVELS
from marketdata.codec import encode
from marketdata.records import Record
from marketdata.times import HOUR_MS, MINUTE_MS, SECOND_MS, to_rfc3339
from marketdata.topics import TopicRole
from tests.support import builders
from tests.support.damage import damaged
from tests.support.forecasting_hours import START_MS
from tests.support.odd_records import odd_candle, odd_tick

HOURS = 700
"""Hours of history before `NOW_MS`."""
NOW_MS = START_MS + HOURS * HOUR_MS + 5 * SECOND_MS
_ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2, 10**15, -(10**15), 2**31, 2**63, -(2**63), 10**30, -(10**30), 10**4_000, 0.0, -0.0, 1e-18,
    1e-300, 5e-324, 1e18, 1e200, -1e200, 1.7e308, -1.7e308, "", "\0", "\x1b[2J", "é\u2028\U0001f600", "BTC-USD",
    "ETH-USD", "1e5", "champion", "binance", "x" * 1_000, "x" * 1_001, "A" * 70_000, [], [None], ["a"] * 101, {},
    {str(n): 1.0 for n in range(101)}, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "9999-12-31T23:00:00Z",
    "9999-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z", "1970-01-01T00:00:00Z", "2024-02-30T00:00:00Z",
    "2024-08-05T02:00:00+02:00", "2024-08-05T00:00:00.123456789Z", to_rfc3339(NOW_MS), to_rfc3339(NOW_MS + HOUR_MS),
)  # fmt: skip
_KEYS = (None, b"", b"\xff", b"\0", b"ETH-USD", b"BTC-USD\n", b"K" * 1_001, b"\xff" * 70_000)
_HEADERS = (
    (),
    (("source-offset", b"7"),),
    (("source-offset", b"\xff"),),
    (("source-offset", b""),),
    (("dead-letter", b"\xff"),),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One record of a topic."""

    role: TopicRole
    key: bytes | None
    value: bytes | None
    arrived_ms: int
    headers: tuple[tuple[str, bytes], ...]

    def record(self, topic: str, offset: int) -> ConsumerRecord:
        return ConsumerRecord(topic, 0, offset, self.arrived_ms, 1, self.key, self.value, None, -1, -1, self.headers)


def valid(rng: random.Random, role: TopicRole) -> Record:
    """Return a record that its readers accept, of the last hours."""
    at_ms = NOW_MS - NOW_MS % MINUTE_MS - rng.randrange(50 * 60) * MINUTE_MS
    hour_ms = at_ms - at_ms % HOUR_MS
    made = builders.prediction(hour_ms, prediction_id=f"BTC-USD|{to_rfc3339(hour_ms)}|1|m{rng.randrange(100)}")
    prediction = replace(made, quantiles={level_name(level): 95.0 + 10 * level for level in LEVELS})
    stream = {"n_updates": 3, "n_trades": 2, "traded_volume": 1.5, "vwap": 100.0} if rng.random() < 0.5 else {}
    tick = builders.tick(at_ms, bid_qty=1.0, ask_qty=2.0, divergence_bps=1.0, **stream)
    records: dict[TopicRole, tuple[Record, ...]] = {
        TopicRole.TICKS: (tick, tick, odd_tick(rng.choice)),
        TopicRole.TICKS_CLEAN: (tick, tick, odd_tick(rng.choice)),
        TopicRole.CANDLES: (builders.candle(at_ms - MINUTE_MS), odd_candle(rng.choice)),
        TopicRole.FEATURES: (builders.feature_row(at_ms),),
        TopicRole.PREDICTIONS: (prediction,),
        TopicRole.PREDICTION_SCORES: (builders.score(prediction),),
        TopicRole.DEAD_LETTERS: (builders.dead_letter(at_ms),),
        TopicRole.PART_STATUS: (builders.part_status(at_ms), builders.part_status(at_ms, next_report_s=None)),
    }
    return rng.choice(records[role])


def with_odd_field(rng: random.Random, payload: bytes) -> bytes:
    """Return a JSON object with one or two values replaced, removed or added, at any depth."""
    document: Any = json.loads(payload)
    for _ in range(rng.randint(1, 2)):
        at = document
        while True:
            name = rng.choice([*at, "odd"]) if isinstance(at, dict) else rng.randrange(len(at))
            inside = at.get(name) if isinstance(at, dict) else at[name]
            if isinstance(inside, dict | list) and inside and rng.random() < 0.7:
                at = inside
                continue
            break
        if isinstance(at, dict) and rng.random() < 0.1:
            at.pop(name, None)
        else:
            at[name] = copy.deepcopy(rng.choice(_ODD))
    return json.dumps(document, ensure_ascii=rng.random() < 0.5).encode()


def value_of(rng: random.Random, role: TopicRole) -> bytes | None:
    """Return the value of a record of a topic: seldom valid."""
    kind = rng.random()
    if kind < 0.01:
        return rng.choice((None, b"", b"x" * 1_100_000, b'{"' + b"k" * 700_000 + b'":1}', b"[" * 200_000))
    if kind < 0.07:
        return rng.randbytes(rng.randrange(200))
    other = rng.choice(list(TopicRole)) if rng.random() < 0.05 else role
    payload = encode(valid(rng, other))
    if kind < 0.2:
        return payload
    return with_odd_field(rng, payload) if kind < 0.7 else damaged(rng, payload)


def cases(rng: random.Random, roles: tuple[TopicRole, ...], count: int) -> Iterator[Case]:
    """Yield `count` cases of random topics among `roles`."""
    for _ in range(count):
        role = rng.choice(roles)
        key = b"BTC-USD" if rng.random() < 0.9 else rng.choice(_KEYS)
        arrived_ms = NOW_MS if rng.random() < 0.9 else rng.choice((-1, 0, 2**62, -(2**62)))
        headers = () if rng.random() < 0.8 else rng.choice(_HEADERS)
        yield Case(role, key, value_of(rng, role), arrived_ms, headers)


def republish_record(rng: random.Random) -> bytes:
    """Return the value of a record of the topic of republished dead letters: often damaged."""
    payload = msgspec.json.encode({"letter": "a-0@1#2", "state": "sent", "topic": "a", "partition": 0, "offset": 1})
    return rng.choice((payload, damaged(rng, payload), with_odd_field(rng, payload)))
