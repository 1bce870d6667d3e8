"""Composition root: builds the Faust application of a worker from its settings.

Every part of the worker is created here and receives its dependencies; nothing is opened before the worker starts.
"""

import gc
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import faust
from faust.types import TP
from faust.web.drivers.aiohttp import Web as AiohttpWeb

from clients.logging_setup import logging_config
from config import Settings, load_settings
from config.paths import PRIVATE_UMASK
from marketdata.errors import BitcoinDataError
from marketdata.printable import write_error
from marketdata.topics import TopicRole
from marketdata.vocabulary import FeedMode
from streams import commands
from streams.agents import clean_agent, features_agent
from streams.collection import build
from streams.collection.ports import Publisher
from streams.faust_batch.driver import BatchTransport, RawBatchSchema
from streams.faust_batch.recovery import BatchTableManager
from streams.faust_batch.runner import BatchAgent, BatchRunner
from streams.faust_batch.table import BatchTable
from streams.kafka import topics
from streams.kafka.faust_options import app_options, group_instance_id
from streams.metrics import Metrics
from streams.sources.registry import build_exchanges
from streams.worker import health, recovery_watch
from streams.worker.clock import WorkerClock
from streams.worker.preflight import claim_folder, require_free_port
from streams.worker.shutdown import BoundedWorker
from streams.worker.stall_watchdog import SESSION_SHARE, StallWatchdog
from streams.worker.state import WorkerState
from streams.worker.supervise import forever
from streams.worker.web_server import BoundedSite, bounded_runner

log = logging.getLogger(__name__)

# Objects. The records of a poll live until their batch is done, and form no reference cycles. With Python's default of
# 700, garbage collection scans them and the state of all markets repeatedly: 10 to 15 % of the worker's CPU time.
GC_THRESHOLD = 100_000
RESTART_PAUSE_S = 1.0

_ROCKSDB_OPTIONS = {"write_buffer_size": 8 << 20, "block_cache_size": 16 << 20, "target_file_size_base": 8 << 20}


class OwnWeb(AiohttpWeb):
    """Faust's web server with limits, without Faust's own pages, which would use our paths and show the tables."""

    default_blueprints: ClassVar[list[Any]] = []
    production_blueprints: ClassVar[list[Any]] = []
    debug_blueprints: ClassVar[list[Any]] = []
    optional_blueprints: ClassVar[list[Any]] = []
    logger = logging.getLogger("faust.web")

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, **options)
        self._runner = bounded_runner(self.web_app)

    def _new_transport_tcp(self) -> BoundedSite:
        conf = self.app.conf
        return BoundedSite(self._runner, conf.web_bind, conf.web_port, ssl_context=conf.web_ssl_context)


class StreamsApp(faust.App):
    """Faust's application with batch transport; creates topics and starts the clock before it subscribes."""

    logger = logging.getLogger("faust.app")  # Faust's messages appear under Faust's name
    settings: Settings
    clock: WorkerClock
    worker_state: WorkerState
    stall_watchdog: StallWatchdog

    async def on_first_start(self) -> None:
        from streams.views.access import require_guarded
        from streams.views.pages import attach as attach_views

        gc.set_threshold(GC_THRESHOLD)
        self.conf.consumer_group_instance_id = group_instance_id(self.conf)
        code = 2  # settings
        try:
            require_guarded(self.settings.streams, self.conf.web_bind)
            code = 1
            os.umask(PRIVATE_UMASK)  # the tables' files
            claim_folder(self.conf.datadir.absolute())
            if self.conf.web_enabled:
                await require_free_port(self.conf.web_bind, self.conf.web_port)
            await topics.ensure(self.settings, self.worker_state.changelogs)
            await self.clock.start()
        except BitcoinDataError as error:
            log.error("the worker cannot start: %s", error)  # noqa: TRY400  one line without a traceback
            raise SystemExit(code) from error
        self.worker_state.started_at = self.loop.time()
        self.stall_watchdog.start_thread()
        limit_s = recovery_watch.STEP_S + self.settings.streams.session_timeout_s
        self.add_future(recovery_watch.watch(self, limit_s, recovery_watch.end_now))
        attach_views(self, self.settings, self.clock)
        await super().on_first_start()

    def on_rebalance_end(self) -> None:
        super().on_rebalance_end()
        consumer: Any = self.consumer
        tables: Any = self.tables
        consumer.settled = tables.recovery._generation_id  # noqa: SLF001  pinned in streams.faust_batch.driver

    async def on_shutdown(self) -> None:
        await super().on_shutdown()
        await self.worker_state.exchanges.close()  # after all tasks that send requests have ended

    def _new_web(self) -> Any:
        return OwnWeb(self)

    def _new_transport(self) -> Any:
        return BatchTransport(
            self.conf.broker_consumer,
            self,
            batch_topics=self.worker_state.topics.values(),
            gather_ms=self.settings.streams.gather_ms,
        )

    def _new_producer_transport(self) -> Any:
        return BatchTransport(self.conf.broker_producer, self)


def app_from_environment() -> StreamsApp:
    """Build the application with the settings of the environment.

    Raises:
        SystemExit: the settings are invalid; one line on stderr names the problem.
    """
    try:
        settings = load_settings()
        return build_app(settings, WorkerClock.from_settings(settings))
    except BitcoinDataError as error:
        write_error(sys.stderr, f"streams: {error}")
        raise SystemExit(2) from error


def build_app(settings: Settings, clock: WorkerClock) -> StreamsApp:
    """Build the application; nothing is opened and no request is sent."""
    app = StreamsApp(
        settings.streams.app_id,
        Table=BatchTable,
        TableManager=BatchTableManager,
        Worker=BoundedWorker,
        logging_config=logging_config(settings.log_level),
        **app_options(settings),
    )
    metrics = Metrics()
    app.settings = settings
    app.clock = clock
    app.worker_state = WorkerState(metrics, build_exchanges(settings, metrics, clock.real_seconds))
    app.stall_watchdog = StallWatchdog(settings.streams.session_timeout_s * SESSION_SHARE)
    _add_agents(app)
    _add_collection(app)
    commands.register()
    health.attach(app)
    return app


def _add_agents(app: StreamsApp) -> None:
    settings, clock, metrics = app.settings, app.clock, app.worker_state.metrics
    clean, features = clean_agent.NAME, features_agent.NAME
    sources = {clean: settings.topic(TopicRole.TICKS).name, features: settings.topic(TopicRole.TICKS_CLEAN).name}
    app.worker_state.topics.update(sources)
    agents: dict[str, BatchAgent] = {
        clean: clean_agent.CleanAgent(settings, clock, metrics, _table(app, clean), lambda: app.producer),
        features: features_agent.FeaturesAgent(settings, clock, metrics, _table(app, features), lambda: app.producer),
    }
    for name, topic_name in sources.items():
        topic = app.topic(topic_name, schema=RawBatchSchema(), key_type=bytes, value_type=bytes)
        runner = BatchRunner(app, name, topic_name, agents[name], metrics)
        app.agent(topic, name=name)(_named(name, runner.run))

    async def forget(*_partitions: Any, **_kwargs: Any) -> None:
        for agent in agents.values():
            agent.forget()

    app.on_partitions_revoked.connect(forget, weak=False)
    app.on_partitions_assigned.connect(forget, weak=False)


def _named(name: str, run: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """Wrap a bound method in a function, which Faust requires; Faust logs its name."""

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


def _add_collection(app: StreamsApp) -> None:
    leader_partition = TP(app.settings.topic(TopicRole.TICKS).name, 0)

    def is_leader() -> bool:
        return not app.should_stop and not app.rebalancing and leader_partition in app.consumer.assignment()

    async def publish(topic: str, records: Any) -> None:
        producer: Any = app.producer
        await producer.publish(topic, records)

    @app.task
    async def keep_clock() -> None:
        await app.clock.keep()

    _add_polling(app, publish, is_leader)
    _add_streaming(app, publish, is_leader)


def _add_polling(app: StreamsApp, publish: Publisher, is_leader: Callable[[], bool]) -> None:
    settings, clock, state = app.settings, app.clock, app.worker_state
    sources = state.exchanges.sources

    @app.task
    async def collect() -> None:
        await state.exchanges.resolve()
        for warning in build.poll_plan_warnings(settings, clock, state):
            log.warning("%s", warning)
        if settings.streams.feed == FeedMode.STREAM:
            return
        if not sources:
            log.info("no polling: no source is enabled")
            return
        log.info(
            "collecting %d markets every %g s of exchange time from %s",
            len(settings.markets),
            settings.streams.poll_interval_s,
            ", ".join(source.name for source in sources),
        )
        collector = build.build_collector(settings, clock, state, publish)
        await forever("collector", lambda: collector.run(is_leader), RESTART_PAUSE_S)


def _add_streaming(app: StreamsApp, publish: Publisher, is_leader: Callable[[], bool]) -> None:
    settings, clock, state = app.settings, app.clock, app.worker_state
    candles = build.build_candles(settings, clock, state, publish)
    feed = build.build_feed(settings, clock, state, publish, candles)

    @app.task
    async def fetch_candles() -> None:
        if candles is not None:
            await forever("candles", lambda: candles.run(is_leader), RESTART_PAUSE_S)

    @app.task
    async def stream() -> None:
        if feed is not None:
            await state.exchanges.resolve()
            log.info("streaming %d markets from %s", len(settings.markets), settings.binance.stream_url)
            await forever("stream", lambda: feed.run(is_leader), RESTART_PAUSE_S)
        elif settings.streams.feed != FeedMode.POLL:
            log.error("streams.feed: %s: expected an enabled source with a stream", settings.streams.feed)
