"""The worker's Prometheus metrics, in a registry of their own: nothing is global, nothing happens at import."""

from collections.abc import Mapping

from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from marketdata.records import Tick

_LATENCIES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_LOG_APPEND_TIME = 1  # Kafka's timestamp type: the broker's clock


class Metrics:
    """Every counter and gauge of the worker; names start with `bitcoin_`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.source_requests = Counter(
            "bitcoin_source_requests", "HTTP requests sent to a source", ["source"], registry=registry
        )
        self.source_errors = Counter(
            "bitcoin_source_errors", "Polls of a source that failed, by kind", ["source", "kind"], registry=registry
        )
        self.source_retries = Counter(
            "bitcoin_source_retries",
            "Requests sent again within a poll, by kind",
            ["source", "kind"],
            registry=registry,
        )
        self.source_unknown = Counter(
            "bitcoin_source_unknown_symbols",
            "Markets that a source said it does not have, each counted once until it is back",
            ["source", "symbol"],
            registry=registry,
        )
        self.absent = Counter(
            "bitcoin_absent_market_polls",
            "Polls without data of a market that no source has; only the first one's tick is published",
            ["symbol"],
            registry=registry,
        )
        self.source_up = Gauge("bitcoin_source_up", "1 when the last poll went well", ["source"], registry=registry)
        self.source_weight = Gauge(
            "bitcoin_source_used_weight", "Used request weight as the source counts it", ["source"], registry=registry
        )
        self.polls = Counter("bitcoin_polls", "Polls of the grid that were made", registry=registry)
        self.skipped_polls = Counter(
            "bitcoin_skipped_polls", "Instants of the grid without a poll, by reason", ["reason"], registry=registry
        )
        self.collected = Counter("bitcoin_collected_ticks", "Ticks published by the collector", registry=registry)
        self.candles = Counter("bitcoin_collected_candles", "Candles published by the collector", registry=registry)
        self.candles_given_up = Counter(
            "bitcoin_candles_given_up",
            "Minutes of a market that were asked for again and again and have no candle",
            registry=registry,
        )
        self.agent_events = Counter("bitcoin_agent_events", "Records an agent handled", ["agent"], registry=registry)
        self.agent_lag = Gauge(
            "bitcoin_agent_lag",
            "Records that lie on an agent's topic and are not done with",
            ["agent", "topic", "partition"],
            registry=registry,
        )
        self.agent_latency = Histogram(
            "bitcoin_agent_latency_seconds",
            "From the broker's append of a batch's oldest record to the delivery of all that came of the batch",
            ["agent"],
            buckets=_LATENCIES_S,
            registry=registry,
        )
        self.agent_seconds = Histogram(
            "bitcoin_agent_batch_seconds", "Time an agent takes for a batch", ["agent"], registry=registry
        )
        self.dead_letters = Counter("bitcoin_dead_letters", "Records refused", ["reason"], registry=registry)
        self.duplicates = Counter("bitcoin_duplicate_ticks", "Ticks dropped for a known tick_id", registry=registry)
        self.out_of_order = Counter(
            "bitcoin_out_of_order_ticks",
            "Clean ticks older than their market's newest by more than the lateness",
            registry=registry,
        )
        self.late = Counter("bitcoin_late_ticks", "Ticks that came too late for the windows", registry=registry)
        self.replayed = Counter("bitcoin_replayed_records", "Records skipped after a replay", registry=registry)

        self.flagged = Counter("bitcoin_flagged_ticks", "Ticks published with a flag", ["flag"], registry=registry)
        self.divergence = Gauge(
            "bitcoin_divergence_bps",
            "CoinGecko's price against Binance's mid at the newest tick that has both",
            ["symbol"],
            registry=registry,
        )
        self.stream_connects = Counter(
            "bitcoin_stream_connects",
            "Connections of a stream, by why they were made",
            ["source", "reason"],
            registry=registry,
        )
        self.stream_connections = Gauge(
            "bitcoin_stream_connections", "Connections of a stream now", ["source"], registry=registry
        )
        self.stream_events = Counter(
            "bitcoin_stream_events", "Events of a stream that ticks stand for", ["source", "kind"], registry=registry
        )
        self.stream_lost = Counter(
            "bitcoin_stream_lost_events",
            "Events of a stream that are in no tick",
            ["source", "kind"],
            registry=registry,
        )
        self.stream_gap = Counter(
            "bitcoin_stream_gap_seconds",
            "Event time between a stream's last tick and the beginning of the next worker that leads",
            ["source"],
            registry=registry,
        )

    def judged(self, tick: Tick) -> None:
        """Count a tick's flags, and show its divergence."""
        for flag in tick.flags:
            self.flagged.labels(flag).inc()
        if tick.divergence_bps is not None:
            self.divergence.labels(tick.symbol).set(tick.divergence_bps)

    def stream(self, source: str) -> "StreamMetrics":
        """The counters of one stream."""
        return StreamMetrics(self, source)

    def handled(self, agent: str, count: int) -> None:
        self.agent_events.labels(agent).inc(count)

    def delivered(self, agent: str, oldest: ConsumerRecord, now_s: float) -> None:
        """A batch is answered at `now_s`, this machine's clock; it counts once, by the record that waited longest."""
        if oldest.timestamp_type == _LOG_APPEND_TIME:
            self.agent_latency.labels(agent).observe(max(now_s - oldest.timestamp / 1000, 0.0))

    def lags(self, agent: str, topic: str, by_partition: Mapping[int, int]) -> None:
        """What an agent has before it now, on the partitions that are assigned."""
        for partition, lag in by_partition.items():
            self.agent_lag.labels(agent, topic, str(partition)).set(lag)

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)


class StreamMetrics:
    """What is told of one stream."""

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

    def up(self, change: int) -> None:
        self._connections.inc(change)

    def gap(self, seconds: float) -> None:
        """Nobody streamed for so long, of event time."""
        self._gap.inc(max(seconds, 0.0))

    def lost(self, updates: int, trades: int) -> None:
        """So many events are in no tick."""
        self._lost_updates.inc(updates)
        self._lost_trades.inc(trades)

    def ticks(self, updates: int, trades: int) -> None:
        """So many events went out as ticks."""
        self._updates.inc(updates)
        self._trades.inc(trades)
