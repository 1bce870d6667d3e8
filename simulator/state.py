"""What the handlers of one exchange share. Must never import them."""

from collections import deque
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from simulator.clock import ReplayClock
from simulator.faults import FaultBook
from simulator.history import MarketHistory
from simulator.limits import WeightLimiter
from simulator.market import Market
from simulator.recording import Recording

JOURNAL_LENGTH = 10_000


@dataclass(frozen=True, slots=True)
class Answered:
    """One request that was answered (or dropped: status 0)."""

    exchange_ms: int
    path: str
    query: str
    status: int


@dataclass(slots=True)
class SocketRules:
    """How the WebSocket side treats a connection; seconds are real ones, but for the life, which is exchange time."""

    ping_s: float = 20.0
    pong_timeout_s: float = 60.0
    life_ms: int = 86_400_000
    messages_per_s: int = 5
    most_streams: int = 1024


@dataclass(slots=True)
class ExchangeState:
    """Everything one server knows."""

    history: MarketHistory
    clock: ReplayClock
    recording: Recording | None = None
    market: Market = field(init=False)
    faults: FaultBook = field(default_factory=FaultBook)
    limiter: WeightLimiter = field(default_factory=WeightLimiter)
    sockets: SocketRules = field(default_factory=SocketRules)
    journal: deque[Answered] = field(default_factory=lambda: deque(maxlen=JOURNAL_LENGTH))
    open_sockets: set[web.WebSocketResponse] = field(default_factory=set)
    update_id: int = 0

    def __post_init__(self) -> None:
        self.market = Market(self.history)
        self.update_id = self.clock.now_ms()

    @property
    def seed(self) -> int:
        """The seed of every derived value."""
        return self.history.seed

    def next_update_id(self) -> int:
        """An order book update id, larger than any before."""
        self.update_id += 1
        return self.update_id


STATE = web.AppKey("state", ExchangeState)


def json_bytes(value: object) -> bytes:
    """JSON in UTF-8."""
    return msgspec.json.encode(value)


AS_OF = web.RequestKey("as_of_ms", int)


def as_of_ms(request: web.Request) -> int:
    """Exchange time now, noted as the time that this request's answer is of: its Date header tells the same."""
    now_ms = request.app[STATE].clock.now_ms()
    request[AS_OF] = now_ms
    return now_ms
