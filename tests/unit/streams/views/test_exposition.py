"""What the board tells Prometheus and /api/health of ages, flags, divergence and scores; a batch's latency."""

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
from streams.views import responses as documents
from streams.views.exposition import BoardCollector
from streams.views.follower import KafkaBoard
from streams.views.read_model import Board
from tests.support.stack import settings_with
from tests.support.view_records import SYMBOL, polled, prediction, score, tick

START = 1_722_816_000_000
OTHER = "ETH-USD"


@pytest.fixture
def settings() -> Settings:
    return settings_with({"BDI_MARKETS": f"{SYMBOL},{OTHER}"})


@pytest.fixture
def board(settings: Settings) -> Board:
    return Board(settings.markets)


def registry(board: Board, now_ms: int | None) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(BoardCollector(board, lambda: now_ms, board.symbols))
    return made


def take(board: Board, *ticks: Tick) -> None:
    for one in ticks:
        board.take(TopicRole.TICKS, one, START)
        board.take(TopicRole.TICKS_CLEAN, one, START)


def test_a_source_grows_older_while_it_fails(board: Board) -> None:
    take(board, polled(START, binance="ok"), polled(START + MINUTE_MS, binance="timeout"))
    age = registry(board, START + 3 * MINUTE_MS).get_sample_value("bitcoin_source_age_seconds", {"source": "binance"})
    assert age == 180.0


def test_before_the_clock_runs_no_age_is_told(board: Board) -> None:
    take(board, polled(START, binance="ok"))
    assert registry(board, None).get_sample_value("bitcoin_source_age_seconds", {"source": "binance"}) is None


def test_scores_are_told_by_market_role_and_origin_over_all_versions(board: Board) -> None:
    made = [prediction(START + n * HOUR_MS, model_version=f"m{n}", prediction_id=f"{n}") for n in range(4)]
    made.append(prediction(START, role="baseline", prediction_id="b"))
    for n, one in enumerate(made):
        board.take(TopicRole.PREDICTION_SCORES, score(one, covered=n > 0, error_bps=(-1) ** n * 10.0 * n), START)
    backfilled = msgspec.structs.replace(score(made[0], error_bps=99.0), prediction_id="f", origin="backfill")
    board.take(TopicRole.PREDICTION_SCORES, backfilled, START)
    told = registry(board, START)
    by = {"symbol": SYMBOL, "role": "champion", "origin": "live"}
    assert told.get_sample_value("bitcoin_forecast_scores", by) == 4
    assert told.get_sample_value("bitcoin_forecast_coverage_ratio", by) == 0.75
    assert told.get_sample_value("bitcoin_forecast_absolute_error_bps", by) == 15.0
    assert told.get_sample_value("bitcoin_forecast_scores", by | {"role": "baseline"}) == 1
    assert told.get_sample_value("bitcoin_forecast_absolute_error_bps", by | {"origin": "backfill"}) == 99.0
    board.take(TopicRole.PREDICTION_SCORES, score(prediction(START, prediction_id="later"), error_bps=55.0), START)
    assert told.get_sample_value("bitcoin_forecast_absolute_error_bps", by) == 23.0  # (0 + 10 + 20 + 30 + 55) / 5


def test_flags_and_divergence_are_told_by_market_and_source(board: Board, settings: Settings) -> None:
    flags = ("stale_coingecko", "divergent")
    take(
        board,
        tick(START, SYMBOL, divergence_bps=-300.0, flags=flags),
        tick(START, OTHER, divergence_bps=20.0, flags=("stale_coingecko",)),
    )
    rows = {row["symbol"]: row for row in documents.markets(board, START)["markets"]}
    assert set(rows[SYMBOL]["flags"]) == set(flags)
    assert (rows[SYMBOL]["divergence_bps"], rows[OTHER]["divergence_bps"]) == (-300.0, 20.0)
    health = documents.health(board, KafkaBoard(connected=True), settings, START)
    assert {one["flag"]: (one["n_markets"], one["markets"]) for one in health["flags"]} == {
        "divergent": (1, [SYMBOL]),
        "stale_coingecko": (2, [SYMBOL, OTHER]),
    }
    assert health["divergence"]["bound_bps"] == settings.streams.divergence_bps
    assert health["divergence"]["widest"]["symbol"] == SYMBOL
    stale = {source["source"]: (source["stale"], source["stale_markets"]) for source in health["sources"]}
    assert stale == {"binance": (False, 0), "coingecko": (True, 2)}


def test_a_streams_tick_judges_its_own_source_alone(board: Board) -> None:
    ok = SourceState(status="ok")
    take(
        board,
        tick(START, flags=("stale_binance", "stale_coingecko", "divergent")),
        tick(START + 1_000, sources={"binance": ok, "coingecko": SourceState(status="not_polled")}),
    )
    assert documents.market_row(board, SYMBOL)["flags"] == ["divergent", "stale_coingecko"]


def test_without_flags_nothing_is_odd(board: Board, settings: Settings) -> None:
    health = documents.health(board, KafkaBoard(connected=True), settings, START)
    assert (health["flags"], health["divergence"]["widest"]) == ([], None)


@pytest.mark.parametrize(("timestamp_type", "counted"), [(1, 1.0), (0, 0.0)])
def test_latency_counts_once_a_batch_and_from_the_brokers_time_alone(timestamp_type: int, counted: float) -> None:
    metrics = Metrics()
    metrics.delivered("clean", SimpleNamespace(timestamp=START, timestamp_type=timestamp_type), START / 1000 + 0.2)
    sample = metrics.registry.get_sample_value
    if counted:
        assert sample("bitcoin_agent_latency_seconds_sum", {"agent": "clean"}) == pytest.approx(0.2)
        assert sample("bitcoin_agent_latency_seconds_bucket", {"agent": "clean", "le": "0.25"}) == 1.0
        assert sample("bitcoin_agent_latency_seconds_bucket", {"agent": "clean", "le": "0.15"}) == 0.0
    assert (sample("bitcoin_agent_latency_seconds_count", {"agent": "clean"}) or 0.0) == counted


def test_a_brokers_clock_that_is_ahead_is_no_negative_latency() -> None:
    metrics = Metrics()
    metrics.delivered("clean", SimpleNamespace(timestamp=START, timestamp_type=1), START / 1000 - 5)
    assert metrics.registry.get_sample_value("bitcoin_agent_latency_seconds_sum", {"agent": "clean"}) == 0.0


def test_names_of_the_worker_and_of_the_board_are_distinct(board: Board) -> None:
    metrics = Metrics()
    metrics.registry.register(BoardCollector(board, lambda: None, board.symbols))  # a name twice is refused
    names = [family.name for family in metrics.registry.collect()]
    assert all(name.startswith("bitcoin_") for name in names)
    assert [a for a, b in itertools.pairwise(sorted(names)) if a == b] == []
