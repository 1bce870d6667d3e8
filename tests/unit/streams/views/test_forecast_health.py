"""Overdue forecasts in /api/health and /metrics."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from config import Settings
from marketdata.times import HOUR_MS, MINUTE_MS, to_rfc3339
from marketdata.topics import TopicRole
from streams.views import responses
from streams.views.exposition import ReadModelCollector
from streams.views.forecast_health import grace_s
from streams.views.read_model import KafkaView, ReadModel
from tests.support.builders import SYMBOL, prediction
from tests.support.stack import settings_with

START = 1_722_816_000_000
OTHER = "ETH-USD"
GRACE_MS = 17 * MINUTE_MS
DUE = START + HOUR_MS


@pytest.fixture
def settings() -> Settings:
    return settings_with({"BDI_MARKETS": f"{SYMBOL},{OTHER},XRP-USD", "BDI_FORECASTING__SYMBOLS": f"{SYMBOL},{OTHER}"})


@pytest.fixture
def read_model(settings: Settings) -> ReadModel:
    return ReadModel(settings.markets)


def apply(read_model: ReadModel, start_ms: int, symbol: str = SYMBOL, role: str = "champion", **other: Any) -> None:
    made = prediction(start_ms, symbol, role=role, prediction_id=f"{symbol}|{start_ms}|{role}", **other)
    read_model.apply(TopicRole.PREDICTIONS, made, start_ms)


def health(read_model: ReadModel, settings: Settings, now_ms: int | None) -> tuple[Any, str]:
    """Return the field `forecasts` of the health, and the state of the part `predictions`."""
    document = responses.health(read_model, KafkaView(connected=True), settings, now_ms)
    return document["forecasts"], next(part["state"] for part in document["parts"] if part["part"] == "predictions")


def test_without_any_forecast_the_state_is_waiting(read_model: ReadModel, settings: Settings) -> None:
    apply(read_model, START - 9 * HOUR_MS, role="challenger")  # never serves
    apply(read_model, START - 9 * HOUR_MS, symbol="XRP-USD")  # not in forecasting.symbols
    document, part = health(read_model, settings, START)
    assert (document["state"], document["reason"], document["n_markets"], document["overdue"], part) == (
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
    read_model: ReadModel, settings: Settings, role: str, now_ms: int, state: str
) -> None:
    apply(read_model, START, role=role)
    apply(read_model, START + HOUR_MS, role="challenger")
    document, part = health(read_model, settings, now_ms)
    assert (document["state"], part, document["grace_s"]) == (state, state, GRACE_MS / 1000)
    wanted = [] if state == "ok" else [(SYMBOL, state, to_rfc3339(START), (now_ms - DUE) / 1000)]
    assert [(o["symbol"], o["state"], o["target_start"], o["overdue_s"]) for o in document["overdue"]] == wanted
    assert document["reason"] == (
        None
        if state == "ok"
        else f"no forecast for {SYMBOL} since the one for 2024-08-05T00:00:00.000Z; check that the predictor is running"
    )


def test_each_market_has_its_own_deadline_and_the_next_forecast_ends_the_alarm(
    read_model: ReadModel, settings: Settings
) -> None:
    now_ms = START + 3 * HOUR_MS
    apply(read_model, now_ms, OTHER)
    apply(read_model, START)
    document, _ = health(read_model, settings, now_ms)
    assert (document["state"], document["n_markets"], document["n_overdue"]) == ("outage", 2, 1)
    apply(read_model, now_ms)
    document, part = health(read_model, settings, now_ms)
    assert (document["state"], document["n_overdue"], document["overdue"], document["reason"], part) == (
        "ok",
        0,
        [],
        None,
        "ok",
    )
    assert health(read_model, settings, None)[0]["state"] == "waiting"  # the clock has not started


def test_only_the_ten_longest_overdue_markets_are_listed() -> None:
    symbols = tuple(f"M{n}-USD" for n in range(12))
    settings = settings_with({})
    settings = settings.model_copy(
        update={"forecasting": settings.forecasting.model_copy(update={"symbols": symbols}), "markets": symbols}
    )
    read_model = ReadModel(symbols)
    for n, symbol in enumerate(symbols):
        apply(read_model, START - n * HOUR_MS, symbol)
    document, _ = health(read_model, settings, START + 9 * HOUR_MS)
    assert document["n_overdue"] == 12
    assert [one["symbol"] for one in document["overdue"]] == [f"M{n}-USD" for n in range(11, 1, -1)]
    assert document["reason"].startswith("no forecast for M11-USD and 11 more since ")


def test_a_longer_horizon_does_not_hide_missing_forecasts(read_model: ReadModel, settings: Settings) -> None:
    """With a horizon of 3 h, the newest target is in the future for two hours after the predictor ended."""
    apply(read_model, START + 2 * HOUR_MS, horizon_h=3)
    assert health(read_model, settings, DUE + GRACE_MS)[0]["state"] == "ok"
    assert health(read_model, settings, DUE + GRACE_MS + 1)[0]["state"] == "late"


@pytest.mark.parametrize("order", [1, -1])
def test_earlier_forecasts_with_a_longer_horizon_do_not_replace_newer_ones(
    read_model: ReadModel, settings: Settings, order: int
) -> None:
    """After the horizon was reduced, their targets are later than those of new forecasts."""
    before, now_ms = START + 23 * HOUR_MS, START + 5 * HOUR_MS
    made: list[dict[str, Any]] = [
        {"start_ms": before, "horizon_h": 24, "model_version": "day"},
        {"start_ms": before - HOUR_MS, "horizon_h": 24, "model_version": "day", "role": "baseline"},
        {"start_ms": now_ms, "model_version": "hour", "role": "baseline"},
    ]
    for one in made[::order]:
        apply(read_model, **one)
    assert health(read_model, settings, now_ms + GRACE_MS)[0]["state"] == "ok"
    assert responses.health(read_model, KafkaView(connected=True), settings, now_ms)["model"]["model_version"] == "hour"
    assert health(read_model, settings, now_ms + HOUR_MS + GRACE_MS + 1)[0]["state"] == "late"


def test_the_grace_is_at_least_a_minute_of_real_time_in_a_replay() -> None:
    settings = settings_with({"BDI_CLOCK__SOURCE": "exchange", "BDI_CLOCK__SPEED": "60"})
    assert grace_s(settings) == settings.event_time.hour_grace_s + 3_600


@pytest.mark.parametrize(("now_ms", "age_s"), [(START - 1, 0.0), (DUE + MINUTE_MS, 3_660.0), (None, None)])
def test_the_age_of_each_markets_forecast_is_a_gauge(
    read_model: ReadModel, settings: Settings, now_ms: int | None, age_s: float | None
) -> None:
    apply(read_model, START)
    apply(read_model, START + HOUR_MS, role="challenger")
    apply(read_model, START, "XRP-USD")  # not in forecasting.symbols
    registry = CollectorRegistry()
    registry.register(ReadModelCollector(read_model, lambda: now_ms, settings.forecasting.symbols))
    assert registry.get_sample_value("bitcoin_forecast_age_seconds", {"symbol": SYMBOL}) == age_s
    for symbol in (OTHER, "XRP-USD"):
        assert registry.get_sample_value("bitcoin_forecast_age_seconds", {"symbol": symbol}) is None
