"""When forecasts are overdue, as their topic alone tells it to /api/health and /metrics."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from config import Settings
from marketdata.times import HOUR_MS, MINUTE_MS, to_rfc3339
from marketdata.topics import TopicRole
from streams.views import responses as documents
from streams.views.exposition import BoardCollector
from streams.views.follower import KafkaBoard
from streams.views.forecast_health import grace_s
from streams.views.read_model import Board
from tests.support.stack import settings_with
from tests.support.view_records import SYMBOL, prediction

START = 1_722_816_000_000
OTHER = "ETH-USD"
GRACE_MS = 17 * MINUTE_MS
DUE = START + HOUR_MS


@pytest.fixture
def settings() -> Settings:
    return settings_with({"BDI_MARKETS": f"{SYMBOL},{OTHER},XRP-USD", "BDI_FORECASTING__SYMBOLS": f"{SYMBOL},{OTHER}"})


@pytest.fixture
def board(settings: Settings) -> Board:
    return Board(settings.markets)


def take(board: Board, start_ms: int, symbol: str = SYMBOL, role: str = "champion", **other: Any) -> None:
    made = prediction(start_ms, symbol, role=role, prediction_id=f"{symbol}|{start_ms}|{role}", **other)
    board.take(TopicRole.PREDICTIONS, made, start_ms)


def health(board: Board, settings: Settings, now_ms: int | None) -> tuple[Any, str]:
    """What is told of forecasts, and the state of their part."""
    document = documents.health(board, KafkaBoard(connected=True), settings, now_ms)
    return document["forecasts"], next(part["state"] for part in document["parts"] if part["part"] == "predictions")


def test_none_yet_is_no_error(board: Board, settings: Settings) -> None:
    take(board, START - 9 * HOUR_MS, role="challenger")  # which serves nobody
    take(board, START - 9 * HOUR_MS, symbol="XRP-USD")  # which is forecast no more
    told, part = health(board, settings, START)
    assert (told["state"], told["reason"], told["n_markets"], told["overdue"], part) == (
        "waiting",
        None,
        0,
        [],
        "waiting",
    )


@pytest.mark.parametrize("role", ["champion", "baseline"])
@pytest.mark.parametrize(
    ("now_ms", "state"),
    [
        (START, "ok"),
        (DUE + GRACE_MS, "ok"),
        (DUE + GRACE_MS + 1, "late"),
        (DUE + GRACE_MS + HOUR_MS, "late"),
        (DUE + GRACE_MS + HOUR_MS + 1, "outage"),
        (DUE + 2_000 * HOUR_MS, "outage"),
    ],
)
def test_a_forecast_is_overdue_a_grace_after_its_hour(
    board: Board, settings: Settings, role: str, now_ms: int, state: str
) -> None:
    take(board, START, role=role)
    take(board, START + HOUR_MS, role="challenger")
    told, part = health(board, settings, now_ms)
    assert (told["state"], part, told["grace_s"]) == (state, state, GRACE_MS / 1000)
    wanted = [] if state == "ok" else [(SYMBOL, state, to_rfc3339(START), (now_ms - DUE) / 1000)]
    assert [(o["symbol"], o["state"], o["target_start"], o["overdue_s"]) for o in told["overdue"]] == wanted
    assert told["reason"] == (
        None
        if state == "ok"
        else f"no forecast of {SYMBOL} since the one of 2024-08-05T00:00:00.000Z: does the predictor run?"
    )


def test_each_market_is_judged_by_its_own_and_the_next_forecast_ends_it(board: Board, settings: Settings) -> None:
    now_ms = START + 3 * HOUR_MS
    take(board, now_ms, OTHER)
    take(board, START)
    told, _ = health(board, settings, now_ms)
    assert (told["state"], told["n_markets"], told["n_overdue"]) == ("outage", 2, 1)
    take(board, now_ms)
    told, part = health(board, settings, now_ms)
    assert (told["state"], told["n_overdue"], told["overdue"], told["reason"], part) == ("ok", 0, [], None, "ok")
    assert health(board, settings, None)[0]["state"] == "waiting"  # the clock does not run yet


def test_only_the_ten_that_are_overdue_for_longest_are_named() -> None:
    symbols = tuple(f"M{n}-USD" for n in range(12))
    settings = settings_with({})
    settings = settings.model_copy(
        update={"forecasting": settings.forecasting.model_copy(update={"symbols": symbols}), "markets": symbols}
    )
    board = Board(symbols)
    for n, symbol in enumerate(symbols):
        take(board, START - n * HOUR_MS, symbol)
    told, _ = health(board, settings, START + 9 * HOUR_MS)
    assert told["n_overdue"] == 12
    assert [one["symbol"] for one in told["overdue"]] == [f"M{n}-USD" for n in range(11, 1, -1)]
    assert told["reason"].startswith("no forecast of M11-USD and 11 more since ")


def test_a_longer_horizon_does_not_hide_that_none_is_made(board: Board, settings: Settings) -> None:
    """Of three hours ahead the newest forecast's hour lies ahead for two hours after the predictor ended."""
    take(board, START + 2 * HOUR_MS, horizon_h=3)
    assert health(board, settings, DUE + GRACE_MS)[0]["state"] == "ok"
    assert health(board, settings, DUE + GRACE_MS + 1)[0]["state"] == "late"


@pytest.mark.parametrize("order", [1, -1])
def test_the_forecasts_of_a_longer_horizon_of_before_outlive_no_newer_one(
    board: Board, settings: Settings, order: int
) -> None:
    """After the horizon became smaller their hours lie ahead of those that are forecast now."""
    before, now_ms = START + 23 * HOUR_MS, START + 5 * HOUR_MS
    made: list[dict[str, Any]] = [
        {"start_ms": before, "horizon_h": 24, "model_version": "day"},
        {"start_ms": before - HOUR_MS, "horizon_h": 24, "model_version": "day", "role": "baseline"},
        {"start_ms": now_ms, "model_version": "hour", "role": "baseline"},
    ]
    for one in made[::order]:
        take(board, **one)
    assert health(board, settings, now_ms + GRACE_MS)[0]["state"] == "ok"
    assert documents.health(board, KafkaBoard(connected=True), settings, now_ms)["model"]["model_version"] == "hour"
    assert health(board, settings, now_ms + HOUR_MS + GRACE_MS + 1)[0]["state"] == "late"


def test_a_replay_grants_a_minute_of_real_time() -> None:
    settings = settings_with({"BDI_CLOCK__SOURCE": "exchange", "BDI_CLOCK__SPEED": "60"})
    assert grace_s(settings) == settings.event_time.hour_grace_s + 3_600


@pytest.mark.parametrize(("now_ms", "age_s"), [(START - 1, 0.0), (DUE + MINUTE_MS, 3_660.0), (None, None)])
def test_the_age_of_each_market_s_forecast_is_a_gauge(
    board: Board, settings: Settings, now_ms: int | None, age_s: float | None
) -> None:
    take(board, START)
    take(board, START + HOUR_MS, role="challenger")
    take(board, START, "XRP-USD")  # which is forecast no more, and would grow older for ever
    registry = CollectorRegistry()
    registry.register(BoardCollector(board, lambda: now_ms, settings.forecasting.symbols))
    assert registry.get_sample_value("bitcoin_forecast_age_seconds", {"symbol": SYMBOL}) == age_s
    for symbol in (OTHER, "XRP-USD"):
        assert registry.get_sample_value("bitcoin_forecast_age_seconds", {"symbol": symbol}) is None
