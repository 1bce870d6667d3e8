"""Rows of an exchange's candles that are not valid: counted, logged, and published as dead letters, once each."""

import json
import logging
from collections.abc import Sequence
from typing import Any

from exchanges.refused_rows import log_refused
from marketdata.codec import encode
from marketdata.dead_letters import to_dead_letter
from marketdata.errors import DecodeError, InvalidValueError
from marketdata.markets import Market
from marketdata.vocabulary import Reason
from streams.collection.ports import Publisher
from streams.metrics import Metrics

log = logging.getLogger(__name__)

Refused = tuple[Any, InvalidValueError]
"""A row as decoded JSON, and its error."""

_MAX_KNOWN = 10_000  # rows; the minutes of refused rows are requested several times


class RefusedRows:
    """The refused rows of one source.

    Args:
        source: its name.
        publish: delivers records.
        topic: of the dead letters.
        metrics: the worker's.
    """

    def __init__(self, source: str, publish: Publisher, topic: str, metrics: Metrics) -> None:
        self._source = source
        self._publish = publish
        self._topic = topic
        self._counter = metrics.rows_refused.labels(source)
        self._known: set[tuple[str, bytes]] = set()

    async def publish(self, market: Market, refused: Sequence[Refused], now_ms: int) -> None:
        """Publish the rows that are new; `now_ms` is event time.

        A row has no offset. Its dead letter has the topic `binance:BTC-USD:1m` and the open time as offset.
        """
        rows = [(json.dumps(row).encode(), error) for row, error in refused]  # msgspec refuses integers above 64 bits
        new = [(value, error) for value, error in rows if (market.symbol, value) not in self._known]
        if not new:
            return
        log_refused(log, f"{self._source}: {market.symbol} 1m", [str(error) for _value, error in new])
        key = market.symbol.encode()
        letters = [
            to_dead_letter(
                error,
                error.reason if isinstance(error, DecodeError) else Reason.VALUE,
                now_ms,
                topic=f"{self._source}:{market.symbol}:1m",
                partition=0,
                offset=_open_time(value),
                key=key,
                value=value,
            )
            for value, error in new
        ]
        await self._publish(self._topic, [(key, encode(letter), ()) for letter in letters])
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        self._known.update((market.symbol, value) for value, _error in new)
        self._counter.inc(len(new))


def _open_time(value: bytes) -> int:
    """The first number of a row, which identifies it among those of its market; 0 without one."""
    row = json.loads(value)
    first = row[0] if isinstance(row, list) and row else 0
    return first if isinstance(first, int) and 0 <= first < 1 << 63 else 0
