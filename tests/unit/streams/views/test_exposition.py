"""Ages, flags, divergence and scores in /metrics and /api/health; latency of a batch."""

import itertools
from types import SimpleNamespace

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from config import Settings
from marketdata.records import SourceState, Tick
from marketdata.times import HOUR_MS, MINUTE_MS
from marketdata.topics import TopicRole
from streams.metrics import Metrics
from streams.views import responses
from streams.views.exposition import ReadModelCollector
from streams.views.read_model import KafkaView, ReadModel
from tests.support.builders import SYMBOL, polled, prediction, score, tick
from tests.support.stack import settings_with

START = 1_722_816_000_000
OTHER = "ETH-USD"


@pytest.fixture
def settings() -> Settings:
    return settings_with({"BDI_MARKETS": f"{SYMBOL},{OTHER}"})


@pytest.fixture
def read_model(settings: Settings) -> ReadModel:
    return ReadModel(settings.markets)


def registry(read_model: ReadModel, now_ms: int | None) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(ReadModelCollector(read_model, lambda: now_ms, read_model.symbols))
    return made


def take(read_model: ReadModel, *ticks: Tick) -> None:
    for one in ticks:
        read_model.apply(TopicRole.TICKS, one, START)
        read_model.apply(TopicRole.TICKS_CLEAN, one, START)


def test_the_age_of_a_source_grows_while_it_fails(read_model: ReadModel) -> None:
    take(read_model, polled(START, binance="ok"), polled(START + MINUTE_MS, binance="timeout"))
    age = registry(read_model, START + 3 * MINUTE_MS).get_sample_value(
        "bitcoin_source_age_seconds", {"source": "binance"}
    )
    assert age == 180.0


def test_there_is_no_age_before_the_clock_starts(read_model: ReadModel) -> None:
    take(read_model, polled(START, binance="ok"))
    assert registry(read_model, None).get_sample_value("bitcoin_source_age_seconds", {"source": "binance"}) is None


def test_score_metrics_are_grouped_by_market_role_and_origin_over_all_versions(read_model: ReadModel) -> None:
    made = [prediction(START + n * HOUR_MS, model_version=f"m{n}", prediction_id=f"{n}") for n in range(4)]
    made.append(prediction(START, role="baseline", prediction_id="b"))
    for n, one in enumerate(made):
        read_model.apply(TopicRole.PREDICTION_SCORES, score(one, covered=n > 0, error_bps=(-1) ** n * 10.0 * n), START)
    backfilled = msgspec.structs.replace(score(made[0], error_bps=99.0), prediction_id="f", origin="backfill")
    read_model.apply(TopicRole.PREDICTION_SCORES, backfilled, START)
    metrics = registry(read_model, START)
    by = {"symbol": SYMBOL, "role": "champion", "origin": "live"}
    assert metrics.get_sample_value("bitcoin_forecast_scores", by) == 4
    assert metrics.get_sample_value("bitcoin_forecast_coverage_ratio", by) == 0.75
    assert metrics.get_sample_value("bitcoin_forecast_absolute_error_bps", by) == 15.0
    assert metrics.get_sample_value("bitcoin_forecast_scores", by | {"role": "baseline"}) == 1
    assert metrics.get_sample_value("bitcoin_forecast_absolute_error_bps", by | {"origin": "backfill"}) == 99.0
    read_model.apply(
        TopicRole.PREDICTION_SCORES, score(prediction(START, prediction_id="later"), error_bps=55.0), START
    )
    assert metrics.get_sample_value("bitcoin_forecast_absolute_error_bps", by) == 23.0  # (0 + 10 + 20 + 30 + 55) / 5


def test_flags_and_divergence_are_reported_by_market_and_source(read_model: ReadModel, settings: Settings) -> None:
    flags = ("stale_coingecko", "divergent")
    take(
        read_model,
        tick(START, SYMBOL, divergence_bps=-300.0, flags=flags),
        tick(START, OTHER, divergence_bps=20.0, flags=("stale_coingecko",)),
    )
    rows = {row["symbol"]: row for row in responses.markets(read_model, START)["markets"]}
    assert set(rows[SYMBOL]["flags"]) == set(flags)
    assert (rows[SYMBOL]["divergence_bps"], rows[OTHER]["divergence_bps"]) == (-300.0, 20.0)
    health = responses.health(read_model, KafkaView(connected=True), settings, START)
    assert {one["flag"]: (one["n_markets"], one["markets"]) for one in health["flags"]} == {
        "divergent": (1, [SYMBOL]),
        "stale_coingecko": (2, [SYMBOL, OTHER]),
    }
    assert health["divergence"]["bound_bps"] == settings.streams.divergence_bps
    assert health["divergence"]["widest"]["symbol"] == SYMBOL
    stale = {source["source"]: (source["stale"], source["stale_markets"]) for source in health["sources"]}
    assert stale == {"binance": (False, 0), "coingecko": (True, 2)}


def test_a_streams_tick_clears_only_the_flag_of_its_own_source(read_model: ReadModel) -> None:
    ok = SourceState(status="ok")
    take(
        read_model,
        tick(START, flags=("stale_binance", "stale_coingecko", "divergent")),
        tick(START + 1_000, sources={"binance": ok, "coingecko": SourceState(status="not_polled")}),
    )
    assert responses.market_row(read_model, SYMBOL)["flags"] == ["divergent", "stale_coingecko"]


def test_without_flags_the_health_lists_none(read_model: ReadModel, settings: Settings) -> None:
    health = responses.health(read_model, KafkaView(connected=True), settings, START)
    assert (health["flags"], health["divergence"]["widest"]) == ([], None)


@pytest.mark.parametrize(("timestamp_type", "counted"), [(1, 1.0), (0, 0.0)])
def test_latency_is_observed_once_per_batch_and_only_with_the_brokers_time(timestamp_type: int, counted: float) -> None:
    metrics = Metrics()
    metrics.delivered("clean", SimpleNamespace(timestamp=START, timestamp_type=timestamp_type), START / 1000 + 0.2)
    sample = metrics.registry.get_sample_value
    if counted:
        assert sample("bitcoin_agent_latency_seconds_sum", {"agent": "clean"}) == pytest.approx(0.2)
        assert sample("bitcoin_agent_latency_seconds_bucket", {"agent": "clean", "le": "0.25"}) == 1.0
        assert sample("bitcoin_agent_latency_seconds_bucket", {"agent": "clean", "le": "0.15"}) == 0.0
    assert (sample("bitcoin_agent_latency_seconds_count", {"agent": "clean"}) or 0.0) == counted


def test_latency_is_not_negative_if_the_brokers_clock_is_ahead() -> None:
    metrics = Metrics()
    metrics.delivered("clean", SimpleNamespace(timestamp=START, timestamp_type=1), START / 1000 - 5)
    assert metrics.registry.get_sample_value("bitcoin_agent_latency_seconds_sum", {"agent": "clean"}) == 0.0


def test_metric_names_of_the_worker_and_the_views_are_distinct(read_model: ReadModel) -> None:
    metrics = Metrics()
    metrics.registry.register(
        ReadModelCollector(read_model, lambda: None, read_model.symbols)
    )  # raises if a name exists twice
    names = [family.name for family in metrics.registry.collect()]
    assert all(name.startswith("bitcoin_") for name in names)
    assert [a for a, b in itertools.pairwise(sorted(names)) if a == b] == []
