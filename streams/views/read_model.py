"""What the views know: the newest records of each topic, in bounded memory.

Pure: records are handed in by `streams.views.follower`; it must never read a topic, a clock or the settings.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from marketdata import candle_rules
from marketdata.enrichment import mid_price
from marketdata.errors import DecodeError, InvalidValueError
from marketdata.records import (
    Candle,
    DeadLetter,
    FeatureRow,
    Prediction,
    Record,
    Score,
    SourceState,
    Tick,
    event_time_ms,
)
from marketdata.times import HOUR_MS, from_rfc3339, to_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import Role, SourceStatus

T = TypeVar("T", Prediction, Score)

MAX_POINTS = 1_440  # a day of minutes
_POINTS_BUDGET = 200_000  # points of all markets together: some 50 MB
_FORECASTS_BUDGET = 50_000
_MOST_SOURCES = 16  # anyone may write a tick

CandlePoint = tuple[int, float, float, float, float, float]
TickPoint = tuple[int, float | None]


@dataclass(slots=True)
class MarketBoard:
    """One market. Points have times in ms of event time, prices in the quote currency, volumes in the base coin.

    polled: the newest tick for which all sources were asked; a stream's ticks in between have nothing of CoinGecko's.
    served: the champion's forecast, or the baseline's in its place, that was made after the newest hour.
    """

    ticks: deque[TickPoint]
    candles: dict[int, CandlePoint] = field(default_factory=dict)
    tick: Tick | None = None
    polled: Tick | None = None
    features: FeatureRow | None = None
    predictions: dict[str, Prediction] = field(default_factory=dict)
    served: Prediction | None = None
    scores: dict[str, Score] = field(default_factory=dict)

    @property
    def sources(self) -> dict[str, SourceState]:
        """The newest state of each source: of those that the newest tick has nothing of, what the last poll told."""
        if self.tick is None:
            return {}
        newest = self.tick.sources
        told = {} if self.polled is None else self.polled.sources
        return told | {
            name: state for name, state in newest.items() if name not in told or state.status != SourceStatus.NOT_POLLED
        }


@dataclass(slots=True)
class SourceBoard:
    """One source as the newest collected tick, clean or not, tells of it.

    failing_since_ms: event time of the first tick without its data.
    """

    status: str
    tick_ms: int
    observed_at: str | None = None
    staleness_ms: int | None = None
    failing_since_ms: int | None = None


@dataclass(slots=True)
class TopicBoard:
    """How far a topic was read. `event_ms`: newest event time; `arrived_ms`: when the broker got the newest record."""

    records: int = 0
    undecodable: int = 0
    skipped: int = 0
    lag: int = 0
    event_ms: int | None = None
    arrived_ms: int | None = None


class Board:
    """All markets of the settings; records of others are counted and left out."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self.points = min(MAX_POINTS, max(60, _POINTS_BUDGET // len(self.symbols)))
        self.forecasts = min(1_000, max(48, _FORECASTS_BUDGET // len(self.symbols)))
        self.clear()

    def clear(self) -> None:
        """Know nothing, as at the beginning."""
        self.markets = {symbol: MarketBoard(deque(maxlen=self.points)) for symbol in self.symbols}
        self.topics: dict[TopicRole, TopicBoard] = {role: TopicBoard() for role in TopicRole}
        self.sources: dict[str, SourceBoard] = {}
        self.dead_letters: deque[DeadLetter] = deque(maxlen=100)
        self.dead_letter_reasons: Counter[str] = Counter()
        self.other_markets = 0

    @property
    def served(self) -> Prediction | None:
        """Of any market what was made after the newest hour."""
        return max((made for one in self.markets.values() if (made := one.served) is not None), key=_rank, default=None)

    def take(self, role: TopicRole, record: Record, arrived_ms: int) -> bool:
        """Take in one record; False where it is of no market here, or older than what is kept.

        Ticks as they were collected tell of the sources alone, and are never True: a poll that all sources failed has
        none that is clean.
        """
        topic = self.topics[role]
        topic.records += 1
        topic.arrived_ms = max(arrived_ms, topic.arrived_ms or 0)
        event_ms = event_time(record)
        topic.event_ms = max(event_ms, topic.event_ms or event_ms)
        if isinstance(record, DeadLetter):
            self.dead_letters.append(record)
            self.dead_letter_reasons[record.reason] += 1
            return True
        market = self.markets.get(record.symbol)
        if market is None:
            self.other_markets += 1
            return False
        taken = False
        match record:
            case Tick() if role is TopicRole.TICKS:
                self._take_sources(record, event_ms)
            case Tick():
                taken = self._take_tick(market, record, event_ms)
            case Candle():
                taken = self._take_candle(market, record)
            case FeatureRow():
                taken = _take_features(market, record)
            case Prediction():
                taken = _keep(market.predictions, record.prediction_id, record, self.forecasts)
                if record.role != Role.CHALLENGER and (market.served is None or _rank(record) > _rank(market.served)):
                    market.served = record
            case Score():
                taken = _keep(market.scores, record.prediction_id, record, self.forecasts)
        return taken

    def _take_tick(self, market: MarketBoard, tick: Tick, event_ms: int) -> bool:
        if all(state.status != SourceStatus.NOT_POLLED for state in tick.sources.values()) and (
            market.polled is None or event_ms > market.polled.timestamp_ms
        ):
            market.polled = tick
        if market.ticks and event_ms <= market.ticks[-1][0]:
            return False
        market.tick = tick
        market.ticks.append((event_ms, mid_price(tick.bid_price, tick.ask_price)))
        return True

    def _take_sources(self, tick: Tick, event_ms: int) -> None:
        for name, state in tick.sources.items():
            known = self.sources.get(name)
            if state.status == SourceStatus.NOT_POLLED or (known is not None and event_ms < known.tick_ms):
                continue
            if (
                known is not None
                and known.status == SourceStatus.OK
                and event_ms == known.tick_ms
                and state.status != SourceStatus.OK
            ):
                continue  # a source that answers for one market of a poll is not out because it lacks another
            if state.status == SourceStatus.UNKNOWN_SYMBOL and known is not None:
                continue  # this market is not the source's; it answered for the others
            if known is None and len(self.sources) >= _MOST_SOURCES:
                continue
            since = None
            if state.status != SourceStatus.OK:
                since = event_ms if known is None or known.failing_since_ms is None else known.failing_since_ms
            # What a failing source said last still tells how old its data is.
            observed = max(_time(state.observed_at) or "", (known.observed_at if known else None) or "") or None
            self.sources[name] = SourceBoard(state.status, event_ms, observed, state.staleness_ms, since)

    def _take_candle(self, market: MarketBoard, candle: Candle) -> bool:
        if candle.interval != "1m":
            return False
        try:
            candle_rules.check(candle)
        except DecodeError:
            return False  # what stores candles tells of it
        candles = market.candles
        candles[candle.open_time_ms] = (
            candle.open_time_ms,
            candle.open,
            candle.high,
            candle.low,
            candle.close,
            candle.volume,
        )
        if len(candles) > self.points * 1.1:  # they come in any order: sorting now and then is enough
            for at in sorted(candles)[: len(candles) - self.points]:
                del candles[at]
        return candle.open_time_ms in candles


def closed_ms(made: Prediction) -> int:
    """The end of the hour after which a forecast was made: where its horizon is one hour, the begin of its target."""
    return from_rfc3339(made.target_end) - made.horizon_h * HOUR_MS


def _rank(made: Prediction) -> tuple[int, bool, str]:
    """Not by the target: after the horizon became smaller the old forecasts' targets lie ahead of the new ones'."""
    return closed_ms(made), made.role == Role.CHAMPION, made.issued_at


def _time(text: str | None) -> str | None:
    """The text where it is a time; the codec looks at times of the record itself alone."""
    try:
        return None if text is None else to_rfc3339(from_rfc3339(text))
    except InvalidValueError:
        return None


def _take_features(market: MarketBoard, row: FeatureRow) -> bool:
    known = market.features
    if known is not None and (row.timestamp_ms, row.revision) < (known.timestamp_ms, known.revision):
        return False
    market.features = row
    return True


def _keep(kept: dict[str, T], key: str, record: T, limit: int) -> bool:
    """Keep a record once; the oldest arrivals go when there are too many."""
    if key in kept:
        return False
    kept[key] = record
    while len(kept) > limit:
        del kept[next(iter(kept))]
    return True


def event_time(record: Record) -> int:
    """The event time in ms that a record's part of the product is judged by: of a candle its end."""
    return event_time_ms(record) + (candle_rules.STEP_MS[record.interval] if isinstance(record, Candle) else 0)


def newest_first(records: Iterable[Prediction]) -> list[Prediction]:
    """Predictions by the hour they are for, newest first, those issued later first."""
    return sorted(records, key=lambda p: (p.target_start, p.issued_at), reverse=True)
