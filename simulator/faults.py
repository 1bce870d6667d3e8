"""Faults that can be activated, as real exchanges have them.

A fault has a name, a part of the path and query it applies to, a count (null: until cleared) and parameters.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

from marketdata.errors import InvalidValueError

STATUS_FAULTS = {
    "401": "JSON: an API key is required (CoinGecko) or invalid (Binance)",
    "403": "HTML page of a firewall",
    "418": "immediate ban; params: retry_after_s",
    "429": "too many requests, as JSON with Retry-After; becomes 418 when ignored (Binance); params: retry_after_s",
    "451": "refused because of the client's location",
    "500": "internal error",
    "502": "bad gateway, HTML page",
    "503": "service unavailable",
    "throttled": "429 as the plain text `Throttled`; params: retry_after_s",
}
BODY_FAULTS = {
    "garbage": "status 200 with a body that is not JSON",
    "cut": "the connection closes in the middle of the body",
    "slow": "the response is delayed; params: delay_s (real seconds)",
}
CONTENT_FAULTS = {
    "nulls": 'nulls in CoinGecko fields; params: fields (list; default ["current_price"]), ids (list; default all)',
    "frozen": "CoinGecko's data stays unchanged; params: at_ms (default: the exchange time of activation)",
    "missing_coin": "CoinGecko omits coins; params: ids (list)",
    "crossed": "bid above ask (REST and WebSocket)",
    "zero": "bid, ask and their quantities are 0",
    "unlisted": "Binance does not list symbols: -1121 for requests, no messages on streams; params: symbols (list)",
    "suspended": "symbols have the status BREAK in exchangeInfo and zeros in bookTicker; params: symbols (list)",
    "missing_candles": "klines omit candles; params: from_ms, to_ms (default: every third candle)",
}
SOCKET_FAULTS = {
    "ws_close": "the connection is closed without notice",
    "ws_shutdown": "the event serverShutdown, then a close; params: grace_s (real seconds, default 1)",
    "ws_garbage": "a message that is not JSON",
    "no_pong": "the server sends no pongs and no pings",
}
FAULTS = STATUS_FAULTS | BODY_FAULTS | CONTENT_FAULTS | SOCKET_FAULTS


@dataclass(slots=True)
class Fault:
    """An active fault; `remaining` is the number of times it still applies, None for unlimited."""

    number: int
    name: str
    match: str
    remaining: int | None
    params: dict[str, object] = field(default_factory=dict)
    hits: int = 0

    def number_of(self, name: str, default: float) -> float:
        """Return a numeric parameter."""
        value = self.params.get(name, default)
        return float(value) if isinstance(value, int | float) else default

    def names_of(self, name: str, default: Iterable[str]) -> list[str]:
        """Return a parameter that is a list of strings."""
        value = self.params.get(name)
        return [str(one) for one in value] if isinstance(value, list) else list(default)

    def as_json(self) -> dict[str, object]:
        """Return the fault as the control endpoint reports it."""
        return {
            "number": self.number,
            "fault": self.name,
            "match": self.match,
            "remaining": self.remaining,
            "hits": self.hits,
            **self.params,
        }


class FaultBook:
    """The active faults, oldest first."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._numbers = count(1)

    def __iter__(self) -> Iterator[Fault]:
        """Iterate over the active faults."""
        return iter(self._faults)

    def add(self, spec: dict[str, object], now_ms: int) -> Fault:
        """Activate a fault given as {"fault": NAME, "match": text, "count": N or null, …params}.

        Raises:
            InvalidValueError: the fault is unknown, `match` is not text, or the count is not a positive integer.
        """
        params = dict(spec)
        name = params.pop("fault", None)
        match = params.pop("match", "")
        times = params.pop("count", None)
        if not isinstance(name, str) or name not in FAULTS:
            raise InvalidValueError("fault", name, f"one of {', '.join(FAULTS)}")
        if not isinstance(match, str):
            raise InvalidValueError("match", match, "a part of the path")
        if times is not None and (not isinstance(times, int) or isinstance(times, bool) or times < 1):
            raise InvalidValueError("count", times, "an integer of 1 or more, or null")
        if name == "frozen":
            params.setdefault("at_ms", now_ms)
        fault = Fault(next(self._numbers), name, match, times, params)
        self._faults.append(fault)
        return fault

    def clear(self, name: str | None = None) -> int:
        """Deactivate the faults with a name, or all; return their number."""
        kept = [fault for fault in self._faults if name is not None and fault.name != name]
        cleared = len(self._faults) - len(kept)
        self._faults = kept
        return cleared

    def take(self, target: str, *names: str) -> Fault | None:
        """Return the oldest active fault with one of the names that matches the target, and count the hit."""
        for fault in self._faults:
            if fault.name in names and fault.match in target:
                fault.hits += 1
                if fault.remaining is not None:
                    fault.remaining -= 1
                    if fault.remaining == 0:
                        self._faults.remove(fault)
                return fault
        return None
