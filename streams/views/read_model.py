"""The views' read model: the newest records of each topic, in bounded memory.

`streams.views.follower` applies the records.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from marketdata import candle_rules
from marketdata.bounds import EARLIEST_MS, LATEST_MS
from marketdata.enrichment import mid_price
from marketdata.errors import DecodeError, InvalidValueError
from marketdata.part_status import Report
from marketdata.records import (
    Candle,
    DeadLetter,
    FeatureRow,
    PartStatus,
    Prediction,
    Record,
    Score,
    SourceState,
    Tick,
    event_time_ms,
)
from marketdata.times import HOUR_MS, from_rfc3339, to_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import OF_ONE_MARKET, Role, SourceStatus

T = TypeVar("T", Prediction, Score)

MAX_POINTS = 1_440  # a day of minutes
_POINTS_BUDGET = 200_000  # points of all markets together: about 50 MB
_FORECASTS_BUDGET = 50_000
_MAX_SOURCES = 16  # bounds memory: any program can write ticks
_MAX_INSTANCES = 64  # of all parts; each restart of a program is a new one

CandlePoint = tuple[int, float, float, float, float, float]
TickPoint = tuple[int, float | None]


@dataclass(slots=True)
class MarketView:
    """One market. Points have times in ms of event time, prices in the quote currency, volumes in the base coin.

    polled: the newest tick that polled all sources; ticks of a stream contain no CoinGecko data.
    collected: states of the sources in the newest collected tick, of time collected_ms. There is no clean tick if no
    source has a price.
    serving: the forecast of the newest anchor hour, by the champion or by the baseline in its place.
    """

    ticks: deque[TickPoint]
    candles: dict[int, CandlePoint] = field(default_factory=dict)
    tick: Tick | None = None
    polled: Tick | None = None
    collected: dict[str, SourceState] = field(default_factory=dict)
    collected_ms: int | None = None
    features: FeatureRow | None = None
    predictions: dict[str, Prediction] = field(default_factory=dict)
    serving: Prediction | None = None
    scores: dict[str, Score] = field(default_factory=dict)

    @property
    def sources(self) -> dict[str, SourceState]:
        """The newest state of each source; that of the last poll if the newest tick did not poll the source."""
        if self.tick is None:
            return self.collected
        newest = self.tick.sources
        if self.collected_ms is not None and self.collected_ms > self.tick.timestamp_ms:
            newest = newest | self.collected
        polled = {} if self.polled is None else self.polled.sources
        return polled | {
            name: state
            for name, state in newest.items()
            if name not in polled or state.status != SourceStatus.NOT_POLLED
        }


@dataclass(slots=True)
class SourceView:
    """One source according to the newest collected tick, clean or not.

    failing_since_ms: event time of the first tick without data of this source.
    """

    status: str
    tick_ms: int
    observed_at: str | None = None
    staleness_ms: int | None = None
    failing_since_ms: int | None = None


@dataclass(slots=True)
class TopicView:
    """Reading progress of a topic.

    unexpected: of the undecodable records, those of an unknown cause. event_ms: newest event time. arrived_ms: newest
    append time of the broker.
    """

    records: int = 0
    undecodable: int = 0
    unexpected: int = 0
    skipped: int = 0
    lag: int = 0
    event_ms: int | None = None
    arrived_ms: int | None = None


@dataclass(slots=True)
class KafkaView:
    """State of the brokers.

    lags: topic to the number of records not yet committed by the worker's group, over all partitions; None if nothing
    was committed. on_topic: number of records on each topic. failures: unexpected errors of the follower; it restarts
    after each.
    """

    connected: bool = False
    problem: str | None = None
    problem_since_ms: int | None = None
    lags: dict[str, int | None] = field(default_factory=dict)
    on_topic: dict[TopicRole, int] = field(default_factory=dict)
    failures: int = 0


@dataclass(slots=True)
class HdfsView:
    """Result of the newest probe of HDFS; times are Unix time in ms. problem: None if it is healthy.

    since_ms: the first probe with this result. healthy_ms: the newest probe that found it healthy.
    """

    problem: str | None = None
    since_ms: int | None = None
    checked_ms: int | None = None
    healthy_ms: int | None = None

    def note(self, problem: str | None, now_ms: int) -> None:
        """Store the result of a probe."""
        if self.checked_ms is None or (problem is None) != (self.problem is None):
            self.since_ms = now_ms
        self.problem, self.checked_ms = problem, now_ms
        if problem is None:
            self.healthy_ms = now_ms


class ReadModel:
    """All markets of the settings; records of other markets are counted and ignored."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self.points = min(MAX_POINTS, max(60, _POINTS_BUDGET // len(self.symbols)))
        self.forecasts = min(1_000, max(48, _FORECASTS_BUDGET // len(self.symbols)))
        self.clear()

    def clear(self) -> None:
        """Return to the initial, empty state."""
        self.markets = {symbol: MarketView(deque(maxlen=self.points)) for symbol in self.symbols}
        self.topics: dict[TopicRole, TopicView] = {role: TopicView() for role in TopicRole}
        self.sources: dict[str, SourceView] = {}
        self.changed_sources: set[str] = set()  # markets, since a reader last cleared it
        self.reports: dict[tuple[str, str], Report] = {}
        self.dead_letters: deque[DeadLetter] = deque(maxlen=100)
        self.dead_letter_reasons: Counter[str] = Counter()
        self.other_markets = 0

    @property
    def serving(self) -> Prediction | None:
        """The serving forecast of the newest anchor hour, over all markets."""
        found = (market.serving for market in self.markets.values() if market.serving is not None)
        return max(found, key=_rank, default=None)

    def apply(self, role: TopicRole, record: Record, arrived_ms: int) -> bool:
        """Apply one record; return False if its market is unknown or it is older than the stored data.

        Collected ticks (role TICKS) only update the sources, and return False: a poll in which all sources failed has
        no clean tick.
        """
        topic = self.topics[role]
        topic.records += 1
        topic.arrived_ms = max(min(arrived_ms, LATEST_MS), topic.arrived_ms or 0)  # a producer's clock can be wrong
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
        changed = False
        match record:
            case Tick() if role is TopicRole.TICKS:
                self._apply_sources(record, event_ms)
                self._apply_market_sources(market, record, event_ms)
            case Tick():
                changed = self._apply_tick(market, record, event_ms)
            case Candle():
                changed = self._apply_candle(market, record)
            case FeatureRow():
                changed = _apply_features(market, record)
            case Prediction():
                changed = _store_once(market.predictions, record.prediction_id, record, self.forecasts)
                if record.role != Role.CHALLENGER and (market.serving is None or _rank(record) > _rank(market.serving)):
                    market.serving = record
            case Score():
                changed = self._apply_score(market, record)
        return changed

    def apply_status(self, status: PartStatus, arrived_ms: int) -> None:
        """Store the newest report of an instance; beyond a limit forget the oldest, except each part's newest."""
        topic = self.topics[TopicRole.PART_STATUS]
        topic.records += 1
        report = Report(status, max(min(arrived_ms, LATEST_MS), EARLIEST_MS))
        self.reports[report.key] = report
        if len(self.reports) > _MAX_INSTANCES:  # partitions are read in no order of time
            newest = {one.key[0]: one.key for one in sorted(self.reports.values(), key=lambda one: one.arrived_ms)}
            others = [one for one in self.reports.values() if one.key not in newest.values()]
            if others:
                del self.reports[min(others, key=lambda one: one.arrived_ms).key]

    def _apply_tick(self, market: MarketView, tick: Tick, event_ms: int) -> bool:
        if all(state.status != SourceStatus.NOT_POLLED for state in tick.sources.values()) and (
            market.polled is None or event_ms > market.polled.timestamp_ms
        ):
            market.polled = tick
        if market.ticks and event_ms <= market.ticks[-1][0]:
            return False
        market.tick = tick
        market.ticks.append((event_ms, mid_price(tick.bid_price, tick.ask_price)))
        return True

    def _apply_sources(self, tick: Tick, event_ms: int) -> None:
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
                continue  # the source answered for another market of this poll: no outage
            if state.status == SourceStatus.NO_COIN_ID or (state.status in OF_ONE_MARKET and known is not None):
                continue  # the source is not asked for this market or does not have it; it answered for others
            if known is None and len(self.sources) >= _MAX_SOURCES:
                continue
            since = None
            if state.status != SourceStatus.OK:
                since = event_ms if known is None or known.failing_since_ms is None else known.failing_since_ms
            # While a source fails, its last observation still gives the age of its data.
            observed = max(_valid_time(state.observed_at) or "", (known.observed_at if known else None) or "") or None
            self.sources[name] = SourceView(state.status, event_ms, observed, state.staleness_ms, since)

    def _apply_market_sources(self, market: MarketView, tick: Tick, event_ms: int) -> None:
        if market.collected_ms is not None and event_ms < market.collected_ms:
            return
        polled = [(name, one) for name, one in tick.sources.items() if one.status != SourceStatus.NOT_POLLED]
        if not polled:
            return
        before = {name: one.status for name, one in market.collected.items()}
        market.collected, market.collected_ms = dict(polled[:_MAX_SOURCES]), event_ms
        if before != {name: one.status for name, one in market.collected.items()}:
            self.changed_sources.add(tick.symbol)

    def _apply_score(self, market: MarketView, score: Score) -> bool:
        known = market.scores.get(score.prediction_id)
        if known is None or score.revision <= known.revision:
            return _store_once(market.scores, score.prediction_id, score, self.forecasts)
        market.scores[score.prediction_id] = score
        return True

    def _apply_candle(self, market: MarketView, candle: Candle) -> bool:
        if candle.interval != "1m":
            return False
        try:
            candle_rules.check(candle)
        except DecodeError:
            return False  # the batch side refuses and reports invalid candles
        candles = market.candles
        candles[candle.open_time_ms] = (
            candle.open_time_ms,
            candle.open,
            candle.high,
            candle.low,
            candle.close,
            candle.volume,
        )
        if len(candles) > self.points * 1.1:  # candles arrive in any order; sort only occasionally
            for at in sorted(candles)[: len(candles) - self.points]:
                del candles[at]
        return candle.open_time_ms in candles


def anchor_end_ms(prediction: Prediction) -> int:
    """Return the end of a forecast's anchor hour, ms; with a horizon of one hour, the start of its target."""
    return from_rfc3339(prediction.target_end) - prediction.horizon_h * HOUR_MS


def _rank(prediction: Prediction) -> tuple[int, bool, str]:
    """Order by anchor, not by target: after the horizon was reduced, old forecasts have later targets than new ones."""
    return anchor_end_ms(prediction), prediction.role == Role.CHAMPION, prediction.issued_at


def _valid_time(text: str | None) -> str | None:
    """Return a normalised time, or None if it is invalid; the codec does not validate times of source states."""
    try:
        return None if text is None else to_rfc3339(from_rfc3339(text))
    except InvalidValueError:
        return None


def _apply_features(market: MarketView, row: FeatureRow) -> bool:
    known = market.features
    if known is not None and (row.timestamp_ms, row.revision) < (known.timestamp_ms, known.revision):
        return False
    market.features = row
    return True


def _store_once(stored: dict[str, T], key: str, record: T, limit: int) -> bool:
    """Store a record unless its key exists; remove the oldest arrivals above `limit`."""
    if key in stored:
        return False
    stored[key] = record
    while len(stored) > limit:
        del stored[next(iter(stored))]
    return True


def event_time(record: Record) -> int:
    """Return the event time, ms, that determines the age of a record's topic; for a candle, the end of its interval."""
    return event_time_ms(record) + (candle_rules.STEP_MS[record.interval] if isinstance(record, Candle) else 0)


def latest_time_ms(record: Record) -> int:
    """Return the latest time, ms, that is over when a record is made: event time, forecast anchor or score target.

    A record that is ahead of the clock would rank before all later ones.
    """
    match record:
        case Prediction():
            return max(event_time(record), anchor_end_ms(record))
        case Score():
            return max(event_time(record), from_rfc3339(record.target_end), from_rfc3339(record.target_start))
    return event_time(record)


def newest_first(records: Iterable[Prediction]) -> list[Prediction]:
    """Sort predictions by target hour, newest first; within an hour, the one issued last first."""
    return sorted(records, key=lambda p: (p.target_start, p.issued_at), reverse=True)
