"""Build the collectors of a worker from its settings; nothing is opened."""

from functools import partial

from clients.clock import Clock
from clients.websocket_session import open_session
from config import Settings
from exchanges import coingecko
from exchanges.binance import endpoints as binance
from marketdata.topics import TopicRole
from marketdata.vocabulary import FeedMode, SourceStatus
from streams.collection.candles import DELAY_MS, STREAMED_DELAY_MS, CandleCollector, published_minutes
from streams.collection.last_tick import newest_tick_ms
from streams.collection.poller import Collector
from streams.collection.ports import NewestTick, Publisher, SleepingClock
from streams.collection.streamer import StreamFeed
from streams.collection.tick_builder import Bounds
from streams.sources.poll_budget import plan_warnings
from streams.worker.state import WorkerState


def build_collector(settings: Settings, clock: SleepingClock, state: WorkerState, publish: Publisher) -> Collector:
    """Build the collector of polled quotes."""
    exchanges = state.exchanges
    return Collector(
        markets=settings.parsed_markets,
        sources=exchanges.sources,
        disabled=exchanges.disabled,
        retry_policies=exchanges.retry_policies,
        clock=clock,
        metrics=state.metrics,
        publish=publish,
        topic=settings.topic(TopicRole.TICKS).name,
        interval_ms=int(settings.streams.poll_interval_s * 1000),
        bounds=_bounds(settings),
        newest=_newest(settings, state, streamed=False),
    )


def build_feed(
    settings: Settings, clock: SleepingClock, state: WorkerState, publish: Publisher, candles: CandleCollector | None
) -> StreamFeed | None:
    """Build the feed of the exchange's WebSocket stream; None if no enabled source has one."""
    exchanges, streams = state.exchanges, settings.streams
    source = exchanges.stream
    if source is None:
        return None
    others: dict[str, str] = {one.name: SourceStatus.NOT_POLLED for one in exchanges.sources}
    others |= dict.fromkeys(exchanges.disabled, SourceStatus.DISABLED)
    others.pop(source.name, None)
    return StreamFeed(
        markets=settings.parsed_markets,
        source=source,
        clock=clock,
        metrics=state.metrics,
        publish=publish,
        topic=settings.topic(TopicRole.TICKS).name,
        on_candle=candles.add if candles is not None else lambda _candle: None,
        interval_ms=int(streams.stream_interval_s * 1000),
        polls_ms=None if streams.feed == FeedMode.STREAM else int(streams.poll_interval_s * 1000),
        silence_s=streams.stream_silence_s,
        life_ms=int(streams.stream_life_h * 3_600_000),
        bounds=_bounds(settings),
        others=others,
        newest=_newest(settings, state, streamed=True),
        open_session=lambda: open_session(settings, source.url),
    )


def build_candles(
    settings: Settings, clock: SleepingClock, state: WorkerState, publish: Publisher
) -> CandleCollector | None:
    """Build the collector of candles; None if no enabled source has candles."""
    exchanges = state.exchanges
    if exchanges.candles is None:
        return None
    topic = settings.topic(TopicRole.CANDLES).name
    return CandleCollector(
        markets=settings.parsed_markets,
        source=exchanges.candles,
        retry_policy=exchanges.retry_policies[exchanges.candles.name],
        clock=clock,
        metrics=state.metrics,
        publish=publish,
        topic=topic,
        dead_letters=settings.topic(TopicRole.DEAD_LETTERS).name,
        published=lambda symbols, latest_ms: published_minutes(
            settings.kafka, topic, symbols, latest_ms, on_skipped=state.metrics.count_skipped
        ),
        lookback_ms=settings.streams.candle_lookback_h * 3_600_000,
        delay_ms=DELAY_MS if exchanges.stream is None else STREAMED_DELAY_MS,
    )


def poll_plan_warnings(settings: Settings, clock: Clock, state: WorkerState) -> list[str]:
    """List the request limits that the configured polls exceed, and the coins without an id, one line each."""
    markets = settings.parsed_markets
    sources = [] if settings.streams.feed == FeedMode.STREAM else state.exchanges.sources
    warnings = plan_warnings(
        sources, state.exchanges.candles, markets, settings.streams.poll_interval_s, 1 / clock.real_seconds(1.0)
    )
    unknown = sorted({market.base for market in markets if market.coingecko_id is None})
    if unknown and any(source.name == coingecko.NAME for source in sources):
        shown = ", ".join(unknown)
        warnings.append(f"{coingecko.NAME}: no id of {shown}: these coins are not requested; set coingecko.coin_ids")
    return warnings


def _newest(settings: Settings, state: WorkerState, *, streamed: bool) -> NewestTick:
    return partial(
        newest_tick_ms,
        settings.kafka,
        settings.topic(TopicRole.TICKS).name,
        streamed=streamed,
        on_skipped=state.metrics.count_skipped,
    )


def _bounds(settings: Settings) -> Bounds:
    streams = settings.streams
    stale_ms = {binance.NAME: streams.stale_binance_s * 1000, coingecko.NAME: streams.stale_coingecko_s * 1000}
    return Bounds(stale_ms, streams.divergence_bps)
