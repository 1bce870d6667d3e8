"""State that the request handlers of one exchange share."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from simulator.clock import ReplayClock
from simulator.faults import FaultBook
from simulator.history import MarketHistory
from simulator.limits import WeightLimiter
from simulator.market import SimulatedMarket
from simulator.recording import Recording

JOURNAL_LENGTH = 10_000


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A request in the journal with the status of its response."""

    exchange_ms: int
    path: str
    query: str
    status: int


@dataclass(slots=True)
class SocketRules:
    """Limits of a WebSocket connection, in real seconds; `life_ms`, its maximum age, is exchange time."""

    ping_s: float = 20.0
    pong_timeout_s: float = 60.0
    life_ms: int = 86_400_000
    messages_per_s: int = 5
    most_streams: int = 1024


@dataclass(slots=True)
class ExchangeState:
    """State of one server; `coin_ids` are CoinGecko's ids by base, where they differ from the usual ones."""

    history: MarketHistory
    clock: ReplayClock
    recording: Recording | None = None
    coin_ids: Mapping[str, str] = field(default_factory=dict)
    market: SimulatedMarket = field(init=False)
    faults: FaultBook = field(default_factory=FaultBook)
    limiter: WeightLimiter = field(default_factory=WeightLimiter)
    sockets: SocketRules = field(default_factory=SocketRules)
    journal: deque[JournalEntry] = field(default_factory=lambda: deque(maxlen=JOURNAL_LENGTH))
    open_sockets: set[web.WebSocketResponse] = field(default_factory=set)
    update_id: int = 0

    def __post_init__(self) -> None:
        self.market = SimulatedMarket(self.history)
        self.limiter.limit = self.history.host.weight_limit
        self.update_id = self.clock.now_ms()

    @property
    def seed(self) -> int:
        """Return the seed of all derived values."""
        return self.history.seed

    def next_update_id(self) -> int:
        """Return the next order book update id."""
        self.update_id += 1
        return self.update_id


STATE = web.AppKey("state", ExchangeState)


def json_bytes(value: object) -> bytes:
    """Encode a value as UTF-8 JSON."""
    return msgspec.json.encode(value)


AS_OF = web.RequestKey("as_of_ms", int)


def as_of_ms(request: web.Request) -> int:
    """Return current exchange time and store it on the request; the Date header of the response uses the same time."""
    now_ms = request.app[STATE].clock.now_ms()
    request[AS_OF] = now_ms
    return now_ms
