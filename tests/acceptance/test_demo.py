"""End-to-end test of the whole product: one run of `python -m devstack demo` on free ports and its own folders.

Invalid records are published to `cryptoTopic` during the run. After `HOURS` closed hours all output is read and
compared with the exchange's data, which this module recomputes from the history without the product.
"""

import itertools
import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

from devstack.stack import ROOT
from marketdata.markets import Market
from marketdata.times import HOUR_MS, MINUTE_MS, from_rfc3339, to_rfc3339
from marketdata.vocabulary import ProductPart
from simulator.derive import Quote
from simulator.history import MarketHistory
from simulator.market import SimulatedMarket
from tests.acceptance.demo_run import BAD_RECORDS, HOURS, Outcome, demo_run

START_MS = from_rfc3339("2024-08-05T00:00:00Z")
pytestmark = [pytest.mark.acceptance, pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    with demo_run(tmp_path_factory.mktemp("demo")) as outcome:
        yield outcome


@pytest.fixture(scope="module")
def exchange(outcome: Outcome) -> SimulatedMarket:
    """The exchange's data, computed offline."""
    own = outcome.settings.devstack
    return SimulatedMarket(MarketHistory.load(ROOT / own.exchange_data, own.exchange_seed))


def test_it_runs_and_stops_within_the_time_limit(outcome: Outcome) -> None:
    assert outcome.exit_code in (0, 130)
    assert outcome.stop_s <= 15
    assert outcome.left == []
    assert "Traceback" not in outcome.printed
    assert f"127.0.0.1:{outcome.settings.streams.web_port}" in outcome.printed
    assert {name: part["healthy"] for name, part in outcome.status.items()} == dict.fromkeys(
        ("kafka", "hdfs", "webhdfs", "exchange", "web", *ProductPart), True
    )


def test_every_tick_is_in_raw_data_once_or_in_the_dead_letters(outcome: Outcome) -> None:
    stored = outcome.raw.tick_id
    assert stored.is_unique
    dead_letters = {(row["topic"], row["partition"], row["offset"]): row["reason"] for row in outcome.dead}
    assert len(dead_letters) == len(outcome.dead)
    lost, stored_ids, reasons = [], set(stored), {}
    for topic, partition, offset, value in outcome.ticks:
        place = (topic, partition, offset)
        if place in dead_letters:
            reasons[value] = dead_letters[place]
        elif json.loads(value)["tick_id"] not in stored_ids:
            lost.append(value)
    assert lost == []
    assert {value: reasons.get(value) for value in BAD_RECORDS} == BAD_RECORDS
    clean_ids = [tick["tick_id"] for tick in outcome.clean]
    assert len(clean_ids) == len(set(clean_ids))


def test_every_quote_equals_the_exchanges(outcome: Outcome, exchange: SimulatedMarket) -> None:
    checked = 0
    for tick in outcome.clean:
        binance = tick["sources"]["binance"]
        if binance["status"] != "ok":
            assert tick["bid_price"] is None
            continue
        quote = exchange.quote(Market.parse(tick["symbol"]).binance, from_rfc3339(binance["observed_at"]))
        assert quote is not None
        assert (tick["bid_price"], tick["bid_qty"], tick["ask_price"], tick["ask_qty"]) == (
            quote.bid_price,
            quote.bid_qty,
            quote.ask_price,
            quote.ask_qty,
        )
        checked += 1
    assert checked > HOURS * 60 * len(outcome.settings.markets) * 0.8


def test_candles_equal_the_exchanges_and_are_unique(outcome: Outcome, exchange: SimulatedMarket) -> None:
    published = [(row["symbol"], row["open_time"]) for row in outcome.candles]
    assert published
    assert len(published) == len(set(published))
    keys = outcome.minutes[["symbol", "open_time"]]
    assert not keys.duplicated().any()
    for row in outcome.minutes[outcome.minutes.open_time >= pd.Timestamp(START_MS, unit="ms", tz="UTC")].itertuples():
        at = int(row.open_time.timestamp() * 1000)
        truth = exchange.history.minutes(Market.parse(row.symbol).binance, at, at + MINUTE_MS)
        assert len(truth) == 1
        assert (row.open, row.high, row.low, row.close) == (truth.open[0], truth.high[0], truth.low[0], truth.close[0])
        assert row.volume == pytest.approx(truth.volume[0], rel=1e-12)


def _time_weighted(points: list[tuple[int, float]], end_ms: int) -> float:
    """The mean of a step function over [first point, end_ms); points are (time, value), ascending."""
    ends = [at for at, _ in points[1:]] + [end_ms]
    weighted = [(end - at) * value for (at, value), end in zip(points, ends, strict=True)]
    return math.fsum(weighted) / (end_ms - points[0][0])


def _expected_hour(outcome: Outcome, exchange: SimulatedMarket, symbol: str, hour: int) -> dict[str, float | None]:
    """One hour from the exchange's data; only the observation times are taken from the product."""
    market = Market.parse(symbol).binance
    quotes: dict[int, list[tuple[int, Quote]]] = {}
    reported: dict[int, list[tuple[int, float]]] = {}
    for tick in sorted(outcome.clean, key=lambda tick: tick["timestamp"]):
        at = from_rfc3339(tick["timestamp"])
        binance = tick["sources"]["binance"]
        if tick["symbol"] != symbol or not hour <= at < hour + HOUR_MS:
            continue
        minute = at // MINUTE_MS * MINUTE_MS
        if binance["status"] == "ok":
            quote = exchange.quote(market, from_rfc3339(binance["observed_at"]))
            assert quote is not None
            quotes.setdefault(minute, []).append((at, quote))
        elif tick["price"] is not None:
            reported.setdefault(minute, []).append((at, tick["price"]))
    truth = exchange.history.minutes(market, hour, hour + HOUR_MS)
    candles = {int(start): i for i, start in enumerate(truth.time_ms)}
    means, opens, highs, lows, closes = [], [], [], [], []
    spreads, percentages, liquidity = [], [], []
    for start in range(hour, hour + HOUR_MS, MINUTE_MS):
        end = start + MINUTE_MS
        if start in quotes:
            points = [(at, quote.mid) for at, quote in quotes[start]]
            of = {
                "spread": [(at, q.ask_price - q.bid_price) for at, q in quotes[start]],
                "percentage": [(at, (q.ask_price - q.bid_price) / q.mid * 100) for at, q in quotes[start]],
                "liquidity": [(at, q.bid_qty + q.ask_qty) for at, q in quotes[start]],
            }
            spreads.append(_time_weighted(of["spread"], end))
            percentages.append(_time_weighted(of["percentage"], end))
            liquidity.append(_time_weighted(of["liquidity"], end))
        elif start in candles:
            i = candles[start]
            sides = [float(side[i]) for side in (truth.open, truth.high, truth.low, truth.close)]
            means.append(math.fsum(sides) / 4)
            for values, side in zip((opens, highs, lows, closes), sides, strict=True):
                values.append(side)
            continue
        elif start in reported:
            points = reported[start]
        else:
            continue
        prices = [price for _, price in points]
        means.append(_time_weighted(points, end))
        opens.append(prices[0])
        highs.append(max(prices))
        lows.append(min(prices))
        closes.append(prices[-1])
    path = [opens[0], *closes]
    return {
        "avg_price": math.fsum(means) / len(means),
        "open_price": opens[0],
        "last_price": closes[-1],
        "high_price": max(highs),
        "low_price": min(lows),
        "avg_spread": math.fsum(spreads) / len(spreads),
        "avg_spread_percentage": math.fsum(percentages) / len(percentages),
        "total_liquidity": math.fsum(liquidity) / len(liquidity),
        "avg_volume": float(truth.volume.mean()),
        "realised_variance": math.fsum(math.log(b / a) ** 2 for a, b in itertools.pairwise(path)),
    }


def test_every_closed_hour_has_one_row_that_equals_the_exchanges_data(
    outcome: Outcome, exchange: SimulatedMarket
) -> None:
    rows = outcome.hourly.set_index(["symbol", "hour_start"])
    assert rows.index.is_unique
    assert len(outcome.live_hours) >= HOURS
    for hour in outcome.live_hours:
        for symbol in outcome.settings.markets:
            row = rows.loc[(symbol, pd.Timestamp(hour, unit="ms", tz="UTC"))]
            expected = _expected_hour(outcome, exchange, symbol, hour)
            found = {name: row[name] for name in expected}
            assert found == pytest.approx(expected, rel=1e-9), (symbol, hour)
            assert (row.origin, row.basis) == ("live", "ticks")


def test_history_is_backfilled_without_quotes(outcome: Outcome, exchange: SimulatedMarket) -> None:
    old = outcome.hourly[outcome.hourly.origin == "backfill"]
    assert len(old) > 17_000 * 0.95 * len(outcome.settings.markets)
    assert old[["avg_spread", "avg_spread_percentage", "total_liquidity", "last_market_cap"]].isna().all().all()
    hours = old[(old.basis == "candles_1h") & (old.symbol == "BTC-USD")].sample(200, random_state=0)
    for row in hours.itertuples():
        at = int(row.hour_start.timestamp() * 1000)
        truth = exchange.history.hours("BTCUSDT", at, at + HOUR_MS)
        assert (row.open_price, row.high_price, row.low_price, row.last_price) == (
            truth.open[0],
            truth.high[0],
            truth.low[0],
            truth.close[0],
        )


def test_each_following_hour_has_a_valid_prediction_issued_before_its_end(outcome: Outcome) -> None:
    live = [row for row in outcome.predictions if row["origin"] == "live"]
    assert len({row["prediction_id"] for row in outcome.predictions}) == len(outcome.predictions)
    for row in live:
        assert row["issued_at"] < row["target_end"]
        assert from_rfc3339(row["data_through"]) <= from_rfc3339(row["target_start"])
        quantiles = list(row["quantiles"].values())
        assert quantiles == sorted(quantiles)
        assert row["lower"] < row["upper"]
    champions = {row["target_start"] for row in live if row["role"] == "champion" and row["symbol"] == "BTC-USD"}
    first = min(champions)
    # Every closed hour has a prediction, not only the scored ones.
    following = {to_rfc3339(hour) for hour in outcome.live_hours if to_rfc3339(hour) >= first}
    assert len(following) >= HOURS
    assert following <= champions
    scored = {row["target_start"] for row in outcome.scores if row["symbol"] == "BTC-USD" and row["role"] == "champion"}
    assert len(following & scored) >= HOURS


def test_scores_match_predictions_and_actual_prices(outcome: Outcome) -> None:
    predictions = {row["prediction_id"]: row for row in outcome.predictions}
    hours = outcome.hourly.set_index(["symbol", "hour_start"])
    assert len({(row["prediction_id"], row["revision"]) for row in outcome.scores}) == len(outcome.scores)
    valid = {row["prediction_id"]: row for row in sorted(outcome.scores, key=lambda row: row["revision"])}
    assert len(valid) >= HOURS
    for score in valid.values():
        prediction = predictions[score["prediction_id"]]
        truth = hours.loc[(score["symbol"], pd.Timestamp(score["target_start"]))]
        assert truth.origin == "live"
        assert score["actual_avg_price"] == pytest.approx(truth.avg_price, rel=1e-12)
        error = math.log(prediction["pred_avg_price"] / score["actual_avg_price"]) * 10_000
        assert score["error_bps"] == pytest.approx(error, abs=1e-6)
        assert score["covered"] == (prediction["lower"] <= score["actual_avg_price"] <= prediction["upper"])
        assert score["scored_at"] >= score["target_end"]


def test_features_follow_the_ticks(outcome: Outcome) -> None:
    symbols = {row["symbol"] for row in outcome.features}
    assert symbols == set(outcome.settings.markets)
    stamps = {(row["symbol"], row["timestamp"]) for row in outcome.clean}
    assert all((row["symbol"], row["timestamp"]) in stamps for row in outcome.features)


def test_the_counts_are_printed(outcome: Outcome, record_property: Any) -> None:
    """Print the counts of the run; each must be positive."""
    counts = {
        "first_prediction_s": round(outcome.first_prediction_s, 1),
        "stop_s": round(outcome.stop_s, 1),
        "ticks": len(outcome.ticks),
        "clean": len(outcome.clean),
        "dead_letters": len(outcome.dead),
        "raw": len(outcome.raw),
        "candles": len(outcome.candles),
        "minute_candles": len(outcome.minutes),
        "hourly": len(outcome.hourly),
        "live_hours": len(outcome.live_hours),
        "features": len(outcome.features),
        "predictions": len(outcome.predictions),
        "scores": len(outcome.scores),
    }
    for name, count in counts.items():
        record_property(name, count)
    sys.stdout.write(f"\nacceptance: {json.dumps(counts)}\n")
    assert all(count > 0 for count in counts.values())
