"""The composition root: settings in, one wired Faust application out.

Everything that the worker is made of is built here and handed its parts; nothing is opened before the worker starts. It
must never hold logic of its own.
"""

import gc
import hashlib
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import faust
from faust.types import TP
from faust.web.drivers.aiohttp import Web as AiohttpWeb

from clients.logging_setup import logging_config
from config import Settings, load_settings
from exchanges import coingecko
from exchanges.binance import rest as binance
from marketdata.errors import BitcoinDataError
from marketdata.topics import TopicRole
from streams import commands
from streams.agents.clean import NAME as CLEAN
from streams.agents.clean import CleanAgent
from streams.agents.features import NAME as FEATURES
from streams.agents.features import FeaturesAgent
from streams.collection.candles import DELAY_MS, STREAMED_DELAY_MS, CandleCollector
from streams.collection.last_tick import newest_tick_ms
from streams.collection.poller import Collector, NewestTick, forever
from streams.collection.streamer import StreamFeed
from streams.collection.tick_builder import DISABLED, NOT_POLLED, Bounds
from streams.faust_batch.consumer_thread import BatchConsumerThread
from streams.faust_batch.driver import BatchConsumer, BatchTable, BatchTransport, RawBatchSchema
from streams.faust_batch.runner import BatchRunner
from streams.kafka import topics
from streams.kafka.faust_options import broker_urls, credentials
from streams.metrics import Metrics
from streams.sources.poll_budget import plan_warnings
from streams.sources.registry import Exchanges, build_exchanges
from streams.worker import health
from streams.worker.clock import WorkerClock
from streams.worker.preflight import claim_folder, require_free_port
from streams.worker.shutdown import BoundedWorker
from streams.worker.stall_watchdog import SHARE, Standstill

log = logging.getLogger(__name__)

POLLS_ALONE, STREAM_ALONE = "poll", "stream"  # of streams.feed
BUFFERED_BATCHES = 12  # per topic; an event is a batch. Of 4 Faust once waited for a changelog for ever
# Bytes of a partition in a poll: 48,000 ticks, so that of many markets each has some; of many partitions less, for a
# batch of each may be at work at once.
MAX_FETCH, MAX_FETCH_OF_ALL = 16 << 20, 64 << 20
MAX_RECORD_BATCH = 500_000  # bytes; Kafka's own limit is 1 MiB
# A poll's records live until their batch is done, and are no cycles. By Python's own 700 their collector would pass
# through them, and through the states of all markets, over and over: 10 to 15 % of the worker's CPU.
GC_THRESHOLD = 100_000  # objects
COMMIT_INTERVAL_S = 1.0
REQUEST_TIMEOUT_S = 40.0
DELIVERY_TIMEOUT_S = 60.0

_ROCKSDB_OPTIONS = {"write_buffer_size": 8 << 20, "block_cache_size": 16 << 20, "target_file_size_base": 8 << 20}


@dataclass(slots=True)
class WorkerState:
    """What commands and views may look at.

    topics: agent to its source topic. progress: agent to the loop time of its last batch.
    """

    metrics: Metrics
    exchanges: Exchanges
    topics: dict[str, str] = field(default_factory=dict)
    changelogs: list[str] = field(default_factory=list)
    progress: dict[str, float] = field(default_factory=dict)
    started_at: float = 0.0


class OwnWeb(AiohttpWeb):
    """Faust's web server with our pages alone: none of Faust's own lie at our paths or show tables."""

    default_blueprints: ClassVar[list[Any]] = []
    production_blueprints: ClassVar[list[Any]] = []
    debug_blueprints: ClassVar[list[Any]] = []
    optional_blueprints: ClassVar[list[Any]] = []
    logger = logging.getLogger("faust.web")


class StreamsApp(faust.App):
    """Faust's application with the batch event, and its topics and clock in place before it subscribes."""

    logger = logging.getLogger("faust.app")  # Faust's words go under Faust's name
    settings: Settings
    clock: WorkerClock
    worker_state: WorkerState
    standstill: Standstill

    async def on_first_start(self) -> None:
        from streams.views import attach as attach_views
        from streams.views.access import require_guarded

        gc.set_threshold(GC_THRESHOLD)
        self.conf.consumer_group_instance_id = _instance_id(self)
        try:
            require_guarded(self.settings.streams, self.conf.web_bind)
            claim_folder(self.conf.datadir.absolute())
            if self.conf.web_enabled:
                await require_free_port(self.conf.web_bind, self.conf.web_port)
            await topics.ensure(self.settings, self.worker_state.changelogs)
            await self.clock.start()
        except BitcoinDataError as error:
            log.error("the worker cannot start: %s", error)  # noqa: TRY400  one clear line, no traceback
            raise SystemExit(1) from error
        self.worker_state.started_at = self.loop.time()
        self.standstill.watch()
        attach_views(self, self.settings, self.clock)
        await super().on_first_start()

    def on_rebalance_end(self) -> None:
        super().on_rebalance_end()
        consumer: Any = self.consumer
        tables: Any = self.tables
        consumer.settled = tables.recovery._generation_id  # noqa: SLF001  pinned in streams.faust_batch.driver

    async def on_shutdown(self) -> None:
        await super().on_shutdown()  # by now no task is left that asks
        await self.worker_state.exchanges.close()

    def _new_web(self) -> Any:
        return OwnWeb(self)

    def _new_transport(self) -> Any:
        return BatchTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Any:
        return BatchTransport(self.conf.broker_producer, self)


def app_from_environment() -> StreamsApp:
    """The application of a program: settings from the environment.

    Raises:
        SystemExit: they cannot be used; one clear line stands on stderr.
    """
    try:
        settings = load_settings()
    except BitcoinDataError as error:
        sys.stderr.write(f"streams: {error}\n")
        raise SystemExit(2) from error
    return build_app(settings, WorkerClock.from_settings(settings))


def build_app(settings: Settings, clock: WorkerClock) -> StreamsApp:
    """Wire the worker; nothing is opened, no address is asked."""
    app = _faust_app(settings)
    metrics = Metrics()
    exchanges = build_exchanges(settings, metrics, clock.real_seconds)
    app.settings = settings
    app.clock = clock
    app.worker_state = WorkerState(metrics, exchanges)
    app.standstill = Standstill(settings.streams.session_timeout_s * SHARE)
    _add_agents(app)
    _add_collector(app)
    commands.register()
    health.attach(app)
    return app


def _faust_app(settings: Settings) -> StreamsApp:
    streams = settings.streams
    kafka = settings.kafka
    return StreamsApp(
        streams.app_id,
        broker=broker_urls(kafka),
        broker_credentials=credentials(kafka),
        autodiscover=False,
        origin="streams",
        datadir=streams.data_dir.absolute(),
        store=f"{streams.store}://",
        key_serializer="raw",
        value_serializer="raw",
        Table=BatchTable,
        Worker=BoundedWorker,
        topic_partitions=kafka.partitions,
        topic_replication_factor=kafka.replication_factor,
        topic_disable_leader=True,  # the worker that has the first partition of cryptoTopic leads: no topic for that
        table_standby_replicas=streams.standby_replicas,
        stream_buffer_maxsize=BUFFERED_BATCHES,
        broker_commit_interval=COMMIT_INTERVAL_S,
        broker_session_timeout=streams.session_timeout_s,
        broker_heartbeat_interval=streams.session_timeout_s / 3,
        broker_request_timeout=REQUEST_TIMEOUT_S,
        broker_rebalance_timeout=max(10.0, streams.session_timeout_s),
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=min(MAX_FETCH, MAX_FETCH_OF_ALL // kafka.partitions),
        producer_acks=-1,
        producer_max_batch_size=MAX_RECORD_BATCH,
        producer_request_timeout=DELIVERY_TIMEOUT_S,
        web_bind=streams.web_host,
        web_host=streams.web_host,
        web_port=streams.web_port,
        web_tables_enabled=False,
        web_stats_enabled=False,
        web_graph_enabled=False,
        web_router_enabled=False,
        web_in_thread=False,
        worker_redirect_stdouts=False,
        logging_config=logging_config(settings.log_level),
    )


def _instance_id(app: StreamsApp) -> str:
    """The same for each start of a worker with its data folder and address, and no other's.

    The broker gives back to one that returns what it had, and Faust refuses for good what was given to another address.
    """
    place = f"{socket.gethostname()}:{app.conf.datadir.absolute()}:{app.conf.canonical_url}"
    return f"{app.conf.id}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def _add_agents(app: StreamsApp) -> None:
    settings, clock, metrics = app.settings, app.clock, app.worker_state.metrics
    BatchConsumerThread.gather_ms = settings.streams.gather_ms
    sources = {CLEAN: settings.topic(TopicRole.TICKS).name, FEATURES: settings.topic(TopicRole.TICKS_CLEAN).name}
    BatchConsumer.batch_topics = frozenset(sources.values())
    app.worker_state.topics.update(sources)
    made: dict[str, CleanAgent | FeaturesAgent] = {
        CLEAN: CleanAgent(settings, clock, metrics, _table(app, CLEAN), lambda: app.producer),
        FEATURES: FeaturesAgent(settings, clock, metrics, _table(app, FEATURES), lambda: app.producer),
    }
    for name, topic_name in sources.items():
        topic = app.topic(topic_name, schema=RawBatchSchema(), key_type=bytes, value_type=bytes)
        runner = BatchRunner(app, name, topic_name, made[name], metrics)
        app.agent(topic, name=name)(_named(name, runner.run))

    async def forget(*_moved: Any, **_kwargs: Any) -> None:
        for agent in made.values():
            agent.forget()

    app.on_partitions_revoked.connect(forget, weak=False)
    app.on_partitions_assigned.connect(forget, weak=False)


def _named(name: str, run: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """A coroutine function of its own: Faust wants a function, and names what it says by it."""

    async def agent(stream: Any) -> None:
        await run(stream)

    agent.__name__ = name
    return agent


def _table(app: StreamsApp, name: str) -> Any:
    options = dict(_ROCKSDB_OPTIONS) if app.settings.streams.store == "rocksdb" else {}
    table: Any = app.Table(
        name, key_type=bytes, value_type=bytes, partitions=app.settings.kafka.partitions, options=options
    )
    app.worker_state.changelogs.append(table.changelog_topic_name)
    return table


def _add_collector(app: StreamsApp) -> None:
    settings, state = app.settings, app.worker_state
    exchanges = state.exchanges
    first = TP(settings.topic(TopicRole.TICKS).name, 0)

    def is_leader() -> bool:
        return not app.should_stop and not app.rebalancing and first in app.consumer.assignment()

    async def publish(topic: str, items: Any) -> None:
        producer: Any = app.producer
        await producer.publish(topic, items)

    @app.task
    async def keep_clock() -> None:
        await app.clock.keep()

    @app.task
    async def collect() -> None:
        for warning in plan_of(app):
            log.warning("%s", warning)
        if settings.streams.feed == STREAM_ALONE:
            return
        if not exchanges.sources:
            log.info("nothing is collected: no source is enabled")
            return
        log.info(
            "collecting %d markets every %g s of exchange time from %s",
            len(settings.markets),
            settings.streams.poll_interval_s,
            ", ".join(source.name for source in exchanges.sources),
        )
        collector = build_collector(app, publish)
        await forever("collector", lambda: collector.run(is_leader), 1.0)

    _add_candles_and_feed(app, publish, is_leader)


def _add_candles_and_feed(app: StreamsApp, publish: Any, is_leader: Callable[[], bool]) -> None:
    settings = app.settings
    candles = build_candles(app, publish)
    feed = build_feed(app, publish, candles)

    @app.task
    async def fetch_candles() -> None:
        if candles is not None:
            await forever("candles", lambda: candles.run(is_leader), 1.0)

    @app.task
    async def stream() -> None:
        if feed is not None:
            log.info("streaming %d markets from %s", len(settings.markets), settings.binance.stream_url)
            await forever("stream", lambda: feed.run(is_leader), 1.0)
        elif settings.streams.feed != POLLS_ALONE:
            log.error("streams.feed: %s: no source with a stream is enabled", settings.streams.feed)


def plan_of(app: StreamsApp) -> list[str]:
    """Warnings about limits that the poll plan exceeds."""
    settings, exchanges = app.settings, app.worker_state.exchanges
    return plan_warnings(
        [] if settings.streams.feed == STREAM_ALONE else exchanges.sources,
        exchanges.candles,
        settings.parsed_markets,
        settings.streams.poll_interval_s,
        1 / app.clock.real_seconds(1.0),
    )


def build_collector(app: StreamsApp, publish: Any) -> Collector:
    """The collector of quotes; `publish` delivers."""
    settings, exchanges = app.settings, app.worker_state.exchanges
    return Collector(
        markets=settings.parsed_markets,
        sources=exchanges.sources,
        disabled=exchanges.disabled,
        retry_policies=exchanges.retry_policies,
        clock=app.clock,
        metrics=app.worker_state.metrics,
        publish=publish,
        topic=settings.topic(TopicRole.TICKS).name,
        interval_ms=int(settings.streams.poll_interval_s * 1000),
        bounds=_bounds(settings),
        newest=_newest(settings, streamed=False),
    )


def build_feed(app: StreamsApp, publish: Any, candles: CandleCollector | None) -> StreamFeed | None:
    """The feed of the exchange's stream, None where the settings want none."""
    settings, exchanges, streams = app.settings, app.worker_state.exchanges, app.settings.streams
    source = exchanges.stream
    if source is None:
        return None
    others = {one.name: NOT_POLLED for one in exchanges.sources} | dict.fromkeys(exchanges.disabled, DISABLED)
    others.pop(source.name, None)
    return StreamFeed(
        markets=settings.parsed_markets,
        source=source,
        clock=app.clock,
        metrics=app.worker_state.metrics,
        publish=publish,
        topic=settings.topic(TopicRole.TICKS).name,
        on_candle=candles.tell if candles is not None else lambda _candle: None,
        interval_ms=int(streams.stream_interval_s * 1000),
        polls_ms=None if streams.feed == STREAM_ALONE else int(streams.poll_interval_s * 1000),
        silence_s=streams.stream_silence_s,
        life_ms=int(streams.stream_life_h * 3_600_000),
        bounds=_bounds(settings),
        others=others,
        newest=_newest(settings, streamed=True),
    )


def _newest(settings: Settings, *, streamed: bool) -> NewestTick:
    topic = settings.topic(TopicRole.TICKS).name
    return lambda before_ms: newest_tick_ms(settings.kafka, topic, before_ms, streamed=streamed)


def _bounds(settings: Settings) -> Bounds:
    streams = settings.streams
    stale_ms = {binance.NAME: streams.stale_binance_s * 1000, coingecko.NAME: streams.stale_coingecko_s * 1000}
    return Bounds(stale_ms, streams.divergence_bps)


def build_candles(app: StreamsApp, publish: Any) -> CandleCollector | None:
    """The collector of candles, None where no source has any."""
    settings, exchanges = app.settings, app.worker_state.exchanges
    if exchanges.candles is None:
        return None
    return CandleCollector(
        markets=settings.parsed_markets,
        source=exchanges.candles,
        retry_policy=exchanges.retry_policies[exchanges.candles.name],
        clock=app.clock,
        metrics=app.worker_state.metrics,
        publish=publish,
        kafka=settings.kafka,
        topic=settings.topic(TopicRole.CANDLES).name,
        lookback_ms=settings.streams.candle_lookback_h * 3_600_000,
        delay_ms=DELAY_MS if exchanges.stream is None else STREAMED_DELAY_MS,
    )
