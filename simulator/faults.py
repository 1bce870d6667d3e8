"""Faults that can be switched on: what real exchanges do to a client. Must never import the server.

A fault has a name, a part of the path (with query) it applies to, a count (null: until cleared) and parameters.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

from marketdata.errors import InvalidValueError

STATUS_FAULTS = {
    "401": "CoinGecko's refusal of a key, as JSON",
    "403": "the firewall's page, as HTML",
    "418": "a ban at once; params: retry_after_s",
    "429": "too many requests, as JSON with Retry-After; becomes 418 when ignored (Binance); params: retry_after_s",
    "451": "refused for the location",
    "500": "internal error",
    "502": "bad gateway, as HTML",
    "503": "service unavailable",
    "throttled": "429 as the plain text `Throttled`; params: retry_after_s",
}
BODY_FAULTS = {
    "garbage": "200 with bytes that are no JSON",
    "cut": "the connection drops in the middle of the body",
    "slow": "the answer is late; params: delay_s (real seconds)",
}
CONTENT_FAULTS = {
    "nulls": 'nulls in CoinGecko fields; params: fields (list; default ["current_price"]), ids (list; default all)',
    "frozen": "CoinGecko stands still; params: at_ms (default: the exchange time at which it is switched on)",
    "missing_coin": "CoinGecko leaves coins out; params: ids (list)",
    "crossed": "bid above ask (REST and WebSocket)",
    "zero": "bid and ask and their quantities are 0",
    "unlisted": "Binance has no such symbols: -1121 for requests that name one, silent streams; params: symbols (list)",
    "missing_candles": "klines leave candles out; params: from_ms, to_ms (default: every third candle)",
}
SOCKET_FAULTS = {
    "ws_close": "the connection is closed without a word",
    "ws_shutdown": "the event serverShutdown, then a close; params: grace_s (real seconds, default 1)",
    "ws_garbage": "a message that is no JSON",
    "no_pong": "pings of the client go unanswered, and the server sends none",
}
FAULTS = STATUS_FAULTS | BODY_FAULTS | CONTENT_FAULTS | SOCKET_FAULTS


@dataclass(slots=True)
class Fault:
    """One fault switched on; `remaining` is how many times yet, None without end."""

    number: int
    name: str
    match: str
    remaining: int | None
    params: dict[str, object] = field(default_factory=dict)
    hits: int = 0

    def number_of(self, name: str, default: float) -> float:
        """A numeric parameter."""
        value = self.params.get(name, default)
        return float(value) if isinstance(value, int | float) else default

    def names_of(self, name: str, default: Iterable[str]) -> list[str]:
        """A parameter that is a list of words."""
        value = self.params.get(name)
        return [str(one) for one in value] if isinstance(value, list) else list(default)

    def told(self) -> dict[str, object]:
        """As the control endpoint tells it."""
        return {
            "number": self.number,
            "fault": self.name,
            "match": self.match,
            "remaining": self.remaining,
            "hits": self.hits,
            **self.params,
        }


class FaultBook:
    """The faults that are switched on, oldest first."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._numbers = count(1)

    def __iter__(self) -> Iterator[Fault]:
        """All of them."""
        return iter(self._faults)

    def add(self, wanted: dict[str, object], now_ms: int) -> Fault:
        """Switch one on: {"fault": NAME, "match": text, "count": N or null, …params}.

        Raises:
            InvalidValueError: an unknown fault, or a count that is no positive number.
        """
        params = dict(wanted)
        name = params.pop("fault", None)
        match = params.pop("match", "")
        times = params.pop("count", None)
        if not isinstance(name, str) or name not in FAULTS:
            raise InvalidValueError("fault", name, f"one of {', '.join(FAULTS)}")
        if not isinstance(match, str):
            raise InvalidValueError("match", match, "a part of the path")
        if times is not None and (not isinstance(times, int) or isinstance(times, bool) or times < 1):
            raise InvalidValueError("count", times, "a number from 1 up, or null")
        if name == "frozen":
            params.setdefault("at_ms", now_ms)
        fault = Fault(next(self._numbers), name, match, times, params)
        self._faults.append(fault)
        return fault

    def clear(self, name: str | None = None) -> int:
        """Switch off those of a name, or all; how many they were."""
        kept = [fault for fault in self._faults if name is not None and fault.name != name]
        cleared = len(self._faults) - len(kept)
        self._faults = kept
        return cleared

    def take(self, target: str, *names: str) -> Fault | None:
        """The oldest of these faults that applies to a path, counted as having happened; None where there is none."""
        for fault in self._faults:
            if fault.name in names and fault.match in target:
                fault.hits += 1
                if fault.remaining is not None:
                    fault.remaining -= 1
                    if fault.remaining == 0:
                        self._faults.remove(fault)
                return fault
        return None
