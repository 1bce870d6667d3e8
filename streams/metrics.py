"""Prometheus metrics of a worker, in a registry of its own: no globals, no side effects at import."""

from collections.abc import Mapping

from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from exchanges.refusals import Pause
from marketdata.errors import SourceError
from marketdata.records import Tick

_LATENCIES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_LOG_APPEND_TIME = 1  # Kafka's timestamp type: the broker's clock


class Metrics:
    """Every metric of the worker; names start with `bitcoin_`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.pauses: dict[tuple[str, str], Pause] = {}  # by source and operation
        self.source_requests = Counter(
            "bitcoin_source_requests", "HTTP requests sent to a source", ["source"], registry=registry
        )
        self.source_errors = Counter(
            "bitcoin_source_errors", "Failed polls of a source, by kind", ["source", "kind"], registry=registry
        )
        self.source_retries = Counter(
            "bitcoin_source_retries",
            "Retried requests within a poll, by kind",
            ["source", "kind"],
            registry=registry,
        )
        self.source_unknown = Counter(
            "bitcoin_source_unknown_symbols",
            "Markets that a source reported as unknown, counted once until it lists them again",
            ["source", "symbol"],
            registry=registry,
        )
        self.absent = Counter(
            "bitcoin_absent_market_polls",
            "Polls of a market that no source lists; a tick is published for the first one only",
            ["symbol"],
            registry=registry,
        )
        self.source_up = Gauge(
            "bitcoin_source_up", "1 if the last poll succeeded, else 0", ["source"], registry=registry
        )
        self.source_pause = Gauge(
            "bitcoin_source_pause_seconds",
            "Length of the pause that a source's last refusal or Retry-After caused; 0 while it responds",
            ["source", "operation"],
            registry=registry,
        )
        self.rows_refused = Counter(
            "bitcoin_source_refused_rows",
            "Candles of a source that were left out because they are not valid",
            ["source"],
            registry=registry,
        )
        self.source_weight = Gauge(
            "bitcoin_source_used_weight",
            "Used request weight, as reported by the source",
            ["source"],
            registry=registry,
        )
        self.polls = Counter("bitcoin_polls", "Polls that were made", registry=registry)
        self.skipped_polls = Counter(
            "bitcoin_skipped_polls", "Scheduled polls that were not made, by reason", ["reason"], registry=registry
        )
        self.collected = Counter(
            "bitcoin_collected_ticks", "Ticks published by polling and streaming", registry=registry
        )
        self.candles = Counter("bitcoin_collected_candles", "Candles published by the collector", registry=registry)
        self.candles_given_up = Counter(
            "bitcoin_candles_given_up",
            "Market minutes without a candle after all retries",
            registry=registry,
        )
        self.agent_events = Counter("bitcoin_agent_events", "Records handled by an agent", ["agent"], registry=registry)
        self.agent_lag = Gauge(
            "bitcoin_agent_lag",
            "Consumer lag of an agent, in records",
            ["agent", "topic", "partition"],
            registry=registry,
        )
        self.agent_latency = Histogram(
            "bitcoin_agent_latency_seconds",
            "From the broker's append of a batch's oldest record to the delivery of the batch's outputs",
            ["agent"],
            buckets=_LATENCIES_S,
            registry=registry,
        )
        self.agent_seconds = Histogram(
            "bitcoin_agent_batch_seconds", "Processing time of a batch", ["agent"], registry=registry
        )
        self.dead_letters = Counter("bitcoin_dead_letters", "Refused records, by reason", ["reason"], registry=registry)
        self.duplicates = Counter(
            "bitcoin_duplicate_ticks", "Ticks dropped because their tick_id is known", registry=registry
        )
        self.out_of_order = Counter(
            "bitcoin_out_of_order_ticks",
            "Clean ticks older than their market's newest tick by more than the allowed lateness",
            registry=registry,
        )
        self.late = Counter(
            "bitcoin_late_ticks", "Ticks that arrived too late for the feature windows", registry=registry
        )
        self.replayed = Counter(
            "bitcoin_replayed_records", "Records skipped because they were handled before", registry=registry
        )

        self.skipped = Counter(
            "bitcoin_skipped_records",
            "Records skipped while a leader read the end of a topic, because they are not valid",
            ["topic", "reason"],
            registry=registry,
        )
        self.flagged = Counter(
            "bitcoin_flagged_ticks", "Ticks published with a flag, by flag", ["flag"], registry=registry
        )
        self.divergence = Gauge(
            "bitcoin_divergence_bps",
            "CoinGecko's price relative to Binance's mid in the newest tick with both, in basis points",
            ["symbol"],
            registry=registry,
        )
        self.stream_connects = Counter(
            "bitcoin_stream_connects",
            "Connections opened to a stream, by reason",
            ["source", "reason"],
            registry=registry,
        )
        self.stream_connections = Gauge(
            "bitcoin_stream_connections", "Open connections to a stream", ["source"], registry=registry
        )
        self.stream_events = Counter(
            "bitcoin_stream_events", "Stream events that ticks represent", ["source", "kind"], registry=registry
        )
        self.stream_lost = Counter(
            "bitcoin_stream_lost_events",
            "Stream events that are in no tick",
            ["source", "kind"],
            registry=registry,
        )
        self.stream_gap = Counter(
            "bitcoin_stream_gap_seconds",
            "Event time without streaming between two leading workers, in seconds",
            ["source"],
            registry=registry,
        )

    def count_skipped(self, topic: str, skipped: Mapping[str, int]) -> None:
        """Count the records of a topic that a reader skipped, by reason."""
        for reason, count in skipped.items():
            self.skipped.labels(topic, reason).inc(count)

    def count_flags(self, tick: Tick) -> None:
        """Count a tick's flags, and set its market's divergence."""
        for flag in tick.flags:
            self.flagged.labels(flag).inc()
        if tick.divergence_bps is not None:
            self.divergence.labels(tick.symbol).set(tick.divergence_bps)

    def stream(self, source: str) -> "StreamMetrics":
        """Return the metrics of one source's stream."""
        return StreamMetrics(self, source)

    def source(self, source: str) -> "SourceMetrics":
        """Return the metrics of one source's requests."""
        return SourceMetrics(self, source)

    def handled(self, agent: str, count: int) -> None:
        """Count records that an agent handled."""
        self.agent_events.labels(agent).inc(count)

    def delivered(self, agent: str, oldest: ConsumerRecord, now_s: float) -> None:
        """Observe the latency of a batch delivered at `now_s`, Unix time; `oldest` is its first record."""
        if oldest.timestamp_type == _LOG_APPEND_TIME:
            self.agent_latency.labels(agent).observe(max(now_s - oldest.timestamp / 1000, 0.0))

    def lags(self, agent: str, topic: str, by_partition: Mapping[int, int]) -> None:
        """Set an agent's consumer lag on its assigned partitions, in records."""
        for partition, lag in by_partition.items():
            self.agent_lag.labels(agent, topic, str(partition)).set(lag)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class SourceMetrics:
    """The metrics of one source's requests."""

    def __init__(self, metrics: Metrics, source: str) -> None:
        self._metrics = metrics
        self._source = source

    def retried(self, kind: str) -> None:
        self._metrics.source_retries.labels(self._source, kind).inc()

    def paused(self, operation: str, pause_s: float, error: SourceError | None = None) -> None:
        self._metrics.source_pause.labels(self._source, operation).set(pause_s)
        if error is None:
            self._metrics.pauses.pop((self._source, operation), None)
        else:
            self._metrics.pauses[self._source, operation] = Pause(error.kind, str(error), pause_s)


class StreamMetrics:
    """The metrics of one source's stream."""

    def __init__(self, metrics: Metrics, source: str) -> None:
        self._metrics = metrics
        self._source = source
        self._connections = metrics.stream_connections.labels(source)
        self._updates = metrics.stream_events.labels(source, "quote")
        self._trades = metrics.stream_events.labels(source, "trade")
        self._gap = metrics.stream_gap.labels(source)
        self._lost_updates = metrics.stream_lost.labels(source, "quote")
        self._lost_trades = metrics.stream_lost.labels(source, "trade")

    def connected(self, reason: str) -> None:
        self._metrics.stream_connects.labels(self._source, reason).inc()

    def failed(self, kind: str) -> None:
        self._metrics.source_errors.labels(self._source, kind).inc()

    def paused(self, pause_s: float, error: SourceError | None = None) -> None:
        self._metrics.source(self._source).paused("stream", pause_s, error)

    def up(self, change: int) -> None:
        self._connections.inc(change)

    def gap(self, seconds: float) -> None:
        """Add event time without streaming, in seconds."""
        self._gap.inc(max(seconds, 0.0))

    def lost(self, updates: int, trades: int) -> None:
        """Count events that are in no tick."""
        self._lost_updates.inc(updates)
        self._lost_trades.inc(trades)

    def ticks(self, updates: int, trades: int) -> None:
        """Count events that were published in ticks."""
        self._updates.inc(updates)
        self._trades.inc(trades)
