"""The read model and the API's responses."""

import hashlib
from pathlib import Path

import msgspec
import pytest

from config import Settings
from marketdata.errors import FatalSourceError, RetryableSourceError
from marketdata.records import Prediction, Score, SourceState, Tick
from marketdata.times import HOUR_MS, MINUTE_MS, to_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import OF_ONE_MARKET
from streams.metrics import Metrics
from streams.views import responses
from streams.views.pages import STATIC
from streams.views.read_model import KafkaView, ReadModel
from tests.support import builders
from tests.support.stack import settings_with

START = 1_722_816_000_000
SYMBOLS = ("BTC-USD", "ETH-USD")


@pytest.fixture
def settings() -> Settings:
    return settings_with({})


@pytest.fixture
def read_model() -> ReadModel:
    return ReadModel(SYMBOLS)


def tick(at: int, *, bid: float | None = 99.0, status: str = "ok", symbol: str = "BTC-USD") -> Tick:
    """A tick with data of Binance only."""
    observed = to_rfc3339(at) if status == "ok" else None
    return builders.tick(
        at,
        symbol,
        bid_price=bid,
        ask_price=None if bid is None else bid + 2,
        sources={"binance": SourceState(status=status, observed_at=observed)},
    )


def prediction(hour: int, role: str, issued: int = 0) -> Prediction:
    start = START + hour * HOUR_MS
    return builders.prediction(
        start,
        prediction_id=f"BTC-USD|{hour}|{role}|{issued}",
        issued_at=to_rfc3339(start + issued),
        model_version=f"{role}-1",
        role=role,
    )


def score(hour: int, error_bps: float, last_bps: float, *, covered: bool, origin: str = "live") -> Score:
    return builders.score(
        builders.prediction(START + hour * HOUR_MS, prediction_id=f"{hour}|{origin}"),
        origin=origin,
        error_bps=error_bps,
        last_price_error_bps=last_bps,
        covered=covered,
    )


def test_the_row_has_the_newest_tick_and_ignores_older_ones(read_model: ReadModel) -> None:
    assert read_model.apply(TopicRole.TICKS_CLEAN, tick(START + MINUTE_MS), START)
    assert not read_model.apply(TopicRole.TICKS_CLEAN, tick(START, bid=1.0), START)
    assert not read_model.apply(TopicRole.TICKS_CLEAN, tick(START, symbol="XRP-USD"), START)
    row = responses.market_row(read_model, "BTC-USD")
    assert (row["mid"], row["last"], row["timestamp"]) == (100.0, 100.0, to_rfc3339(START + MINUTE_MS))
    assert read_model.other_markets == 1
    assert responses.market_row(read_model, "ETH-USD")["mid"] is None


def test_without_quotes_the_last_price_is_coingeckos_and_the_mid_is_null(read_model: ReadModel) -> None:
    read_model.apply(TopicRole.TICKS_CLEAN, tick(START, bid=None), START)
    row = responses.market_row(read_model, "BTC-USD")
    assert (row["mid"], row["last"]) == (None, 100.5)
    assert responses.history(read_model, "BTC-USD", 10)["ticks"] == [(START, None)]


def test_ticks_of_a_stream_do_not_replace_data_of_polls(read_model: ReadModel, settings: Settings) -> None:
    """A poll's tick arrives after a later tick of a stream, which does not poll the other sources."""

    def streamed(at: int) -> Tick:
        quoted = {"binance": SourceState(status="ok"), "coingecko": SourceState(status="not_polled")}
        return msgspec.structs.replace(tick(at), price=None, sources=quoted)

    def polled(at: int, status: str) -> Tick:
        return msgspec.structs.replace(
            tick(at),
            price=100.5,
            sources={"binance": SourceState(status="ok"), "coingecko": SourceState(status=status)},
        )

    def take(record: Tick) -> bool:
        read_model.apply(TopicRole.TICKS, record, START)
        return read_model.apply(TopicRole.TICKS_CLEAN, record, START)

    take(streamed(START + 1_000))
    assert not take(polled(START, "ok"))
    take(streamed(START + 2_000))
    row = responses.market_row(read_model, "BTC-USD")
    assert (row["timestamp"], row["price"], row["mid"]) == (to_rfc3339(START + 2_000), 100.5, 100.0)
    sources = {
        one["source"]: one for one in responses.health(read_model, KafkaView(), settings, START + 2_000)["sources"]
    }
    assert {name: one["state"] for name, one in sources.items()} == {"binance": "ok", "coingecko": "ok"}
    take(polled(START + MINUTE_MS, "timeout"))
    take(streamed(START + MINUTE_MS + 1_000))
    sources = {
        one["source"]: one for one in responses.health(read_model, KafkaView(), settings, START + 2_000)["sources"]
    }
    assert sources["coingecko"]["failing_since"] == to_rfc3339(START + MINUTE_MS)


@pytest.mark.parametrize("status", sorted(OF_ONE_MARKET))
def test_a_status_of_one_market_is_no_outage_of_the_source(
    read_model: ReadModel, settings: Settings, status: str
) -> None:
    for at, symbol, own in ((0, "BTC-USD", "ok"), (0, "ETH-USD", status), (1, "ETH-USD", status), (1, "BTC-USD", "ok")):
        states = {"binance": SourceState(status="ok"), "coingecko": SourceState(status=own)}
        record = builders.tick(START + at * MINUTE_MS, symbol=symbol, sources=states)
        read_model.apply(TopicRole.TICKS, record, START)
        read_model.apply(TopicRole.TICKS_CLEAN, record, START)
        document = responses.health(read_model, KafkaView(), settings, START + at * MINUTE_MS)
        assert {one["source"]: one["status"] for one in document["sources"]} == {"binance": "ok", "coingecko": "ok"}
    assert read_model.markets["ETH-USD"].sources["coingecko"].status == status


def test_candles_arrive_in_any_order_and_the_oldest_are_removed(read_model: ReadModel) -> None:
    wanted = read_model.points
    minutes = list(range(0, 2 * wanted * MINUTE_MS, MINUTE_MS))
    for at in reversed(minutes[:wanted]):
        read_model.apply(TopicRole.CANDLES, builders.candle(START + at), START)
    for at in minutes[wanted:]:
        read_model.apply(TopicRole.CANDLES, builders.candle(START + at), START)
    rows = responses.history(read_model, "BTC-USD", wanted)["candles"]
    assert [row[0] for row in rows] == [START + at for at in minutes[wanted:]]
    assert len(read_model.markets["BTC-USD"].candles) <= wanted * 1.1


def test_a_feature_row_is_replaced_only_by_a_newer_one(read_model: ReadModel) -> None:
    read_model.apply(TopicRole.FEATURES, builders.feature_row(START, revision=1), START)
    assert not read_model.apply(TopicRole.FEATURES, builders.feature_row(START, revision=0), START)
    assert read_model.apply(TopicRole.FEATURES, builders.feature_row(START, revision=2), START)
    kept = responses.features(read_model, "BTC-USD")["features"]
    assert kept.revision == 2


def test_scores_are_summarised_by_origin_and_compared_with_the_last_price(read_model: ReadModel) -> None:
    for record in (
        score(0, 3.0, -4.0, covered=True),
        score(1, -5.0, 12.0, covered=False),
        score(1, 99.0, 1.0, covered=True, origin="backfill"),
    ):
        read_model.apply(TopicRole.PREDICTION_SCORES, record, START)
        read_model.apply(TopicRole.PREDICTION_SCORES, record, START)
    document = responses.scores(read_model, "BTC-USD", 2)
    backfilled, live = document["summary"]
    assert (backfilled["n"], live["n"], live["coverage"]) == (1, 2, 0.5)
    assert (live["mean_abs_error_bps"], live["mean_abs_last_price_error_bps"]) == (4.0, 8.0)
    assert live["rmse_ratio_to_last_price"] == pytest.approx((34 / 160) ** 0.5)
    assert len(document["scores"]) == 2
    assert responses.scores(read_model, "ETH-USD", 5)["summary"] == []


def test_predictions_are_latest_hour_first_and_the_model_is_its_champion(
    read_model: ReadModel, settings: Settings
) -> None:
    for record in (prediction(1, "baseline", 9), prediction(1, "champion"), prediction(0, "champion")):
        read_model.apply(TopicRole.PREDICTIONS, record, START)
    found = responses.predictions(read_model, None, 5)["predictions"]
    assert [(p.role, p.target_start) for p in found] == [
        ("baseline", to_rfc3339(START + HOUR_MS)),
        ("champion", to_rfc3339(START + HOUR_MS)),
        ("champion", to_rfc3339(START)),
    ]
    assert responses.health(read_model, KafkaView(), settings, START)["model"]["model_version"] == "champion-1"


@pytest.mark.parametrize(("minutes", "state"), [(1, "ok"), (4, "late"), (8, "outage")])
def test_a_part_without_new_records_is_late_and_then_an_outage(
    read_model: ReadModel, settings: Settings, minutes: int, state: str
) -> None:
    read_model.apply(TopicRole.TICKS_CLEAN, tick(START), START)
    read_model.apply(TopicRole.TICKS, tick(START), START)
    document = responses.health(read_model, KafkaView(connected=True), settings, START + minutes * MINUTE_MS)
    parts = {part["part"]: part["state"] for part in document["parts"]}
    assert (parts["ticks_clean"], parts["candles"]) == (state, "waiting")
    assert document["sources"][0]["state"] == state


def test_a_source_that_fails_is_an_outage_since_its_first_failure(read_model: ReadModel, settings: Settings) -> None:
    for minute, status in enumerate(("ok", "timeout", "server_error")):
        read_model.apply(TopicRole.TICKS, tick(START + minute * MINUTE_MS, status=status), START)
    now = START + 2 * MINUTE_MS
    source = responses.health(read_model, KafkaView(connected=True), settings, now)["sources"][0]
    assert (source["state"], source["status"]) == ("outage", "server_error")
    assert (source["failing_since"], source["observed_at"]) == (to_rfc3339(START + MINUTE_MS), to_rfc3339(START))
    read_model.apply(TopicRole.TICKS, tick(now + MINUTE_MS), START)
    source = responses.health(read_model, KafkaView(connected=True), settings, now + MINUTE_MS)["sources"][0]
    assert (source["state"], source["failing_since"]) == ("ok", None)


def test_collected_ticks_update_only_the_sources_and_a_bounded_number(
    read_model: ReadModel, settings: Settings
) -> None:
    assert not read_model.apply(TopicRole.TICKS, tick(START), START)
    assert responses.market_row(read_model, "BTC-USD")["mid"] is None
    many = {f"s{i}": SourceState(status="ok", observed_at="yesterday") for i in range(1_000)}
    read_model.apply(TopicRole.TICKS, msgspec.structs.replace(tick(START), sources=many), START)
    assert len(read_model.sources) <= 16
    sources = responses.health(read_model, KafkaView(connected=True), settings, START)["sources"]
    assert {source["observed_at"] for source in sources} == {to_rfc3339(START), None}


def test_memory_is_bounded_with_a_thousand_markets() -> None:
    read_model = ReadModel([f"M{i}-USD" for i in range(1_000)])
    assert 60 <= read_model.points <= 200
    assert read_model.markets["M0-USD"].ticks.maxlen == read_model.points


def test_vendored_files_have_the_checksums_and_a_licence() -> None:
    vendor = STATIC / "vendor"
    sums = dict(line.split("  ")[::-1] for line in (vendor / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {"lightweight-charts.mjs", "LICENSE", "NOTICE"}
    for name, digest in sums.items():
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest
    assert "Apache License" in (vendor / "LICENSE").read_text()


def test_the_page_loads_nothing_from_other_servers() -> None:
    own = [path for path in STATIC.iterdir() if path.suffix in (".html", ".js", ".css")]
    assert {path.name for path in own} >= {"index.html", "app.js", "charts.js", "style.css"}
    for path in own:
        for line in _loads(path):
            assert "://" not in line, (path.name, line)


def _loads(path: Path) -> list[str]:
    """Lines that make a browser load a file."""
    words = ("src=", "import ", "from ", "fetch(", "url(", 'rel="stylesheet"', "EventSource(", "@import")
    return [line for line in path.read_text().splitlines() if any(word in line for word in words)]


def test_a_source_that_has_one_market_of_a_poll_is_ok_in_any_order(settings: Settings) -> None:
    polls = [
        builders.polled(START, "BTC-USD", binance="ok", coingecko="missing"),
        builders.polled(START, "ETH-USD", binance="missing", coingecko="ok"),
    ]
    for ticks in (polls, polls[::-1]):
        read_model = ReadModel(SYMBOLS)
        for one in ticks:
            read_model.apply(TopicRole.TICKS, one, START)
        sources = responses.health(read_model, KafkaView(connected=True), settings, START)["sources"]
        assert [(one["source"], one["state"]) for one in sources] == [("binance", "ok"), ("coingecko", "ok")]


def test_flags_and_divergence_are_reported_by_market_and_in_total(read_model: ReadModel, settings: Settings) -> None:
    odd = builders.tick(START, "ETH-USD", divergence_bps=-310.0, flags=("stale_coingecko", "divergent"))
    for one in (builders.tick(START, divergence_bps=4.0), odd):
        read_model.apply(TopicRole.TICKS, one, START)
        read_model.apply(TopicRole.TICKS_CLEAN, one, START)
    # A stream's tick does not poll CoinGecko: the flags of the last poll remain.
    quoted = {"binance": SourceState(status="ok", staleness_ms=3), "coingecko": SourceState(status="not_polled")}
    read_model.apply(TopicRole.TICKS_CLEAN, builders.tick(START + 1_000, "ETH-USD", price=None, sources=quoted), START)
    event = responses.tick_event(read_model, builders.tick(START + 1_000, "ETH-USD"))
    assert event["sources"]["coingecko"].status == "ok"
    assert event["sources"]["binance"].staleness_ms == 3
    assert set(event["flags"]) == {"stale_coingecko", "divergent"}
    assert event["market"]["divergence_bps"] == -310.0
    rows = responses.summary(read_model, SYMBOLS)["rows"]
    assert [(row[0], len(row[3])) for row in rows] == [("BTC-USD", 0), ("ETH-USD", 2)]
    document = responses.health(read_model, KafkaView(connected=True), settings, START + 1_000)
    assert [(one["flag"], one["n_markets"], one["markets"]) for one in document["flags"]] == [
        ("divergent", 1, ["ETH-USD"]),
        ("stale_coingecko", 1, ["ETH-USD"]),
    ]
    assert document["divergence"]["widest"]["symbol"] == "ETH-USD"
    assert {one["source"]: one["state"] for one in document["sources"]} == {"binance": "ok", "coingecko": "ok"}
    read_model.apply(TopicRole.TICKS_CLEAN, builders.tick(START + 60_000, flags=("stale_coingecko",)), START)
    document = responses.health(read_model, KafkaView(connected=True), settings, START + 60_000)
    assert {one["source"]: one["state"] for one in document["sources"]} == {"binance": "ok", "coingecko": "late"}


def test_a_snapshot_has_one_market_in_full_and_the_others_as_rows() -> None:
    read_model = ReadModel([f"M{i}-USD" for i in range(1_000)])
    for symbol in read_model.symbols:
        read_model.apply(TopicRole.TICKS_CLEAN, builders.tick(START, symbol), START)
    document = responses.snapshot(read_model, "M7-USD", {}, 500, is_forecast=True)
    assert document["symbol"] == document["market"]["symbol"] == "M7-USD"
    assert document["is_forecast"]
    assert len(document["markets"]["rows"]) == 1_000
    assert len(msgspec.json.encode(document)) < 60_000


def test_health_lists_what_a_worker_does_not_request_now() -> None:
    metrics = Metrics()
    error = FatalSourceError("binance: wss://host/stream: HTTP 451", "geo_blocked")
    metrics.stream("binance").paused(30.0, error)
    metrics.source("binance").paused("candles", 5.0, FatalSourceError("no", "forbidden"))
    metrics.source("binance").paused("candles", 0.0)

    def pauses() -> object:
        return responses.health(ReadModel(["BTC-USD"]), KafkaView(), Settings(), START, metrics.pauses)["pauses"]

    paused = {"source": "binance", "operation": "stream", "kind": "geo_blocked", "problem": str(error), "pause_s": 30.0}
    assert pauses() == [paused]
    metrics.stream("binance").paused(0.0)
    assert pauses() == []
    unreachable = RetryableSourceError("coingecko: GET https://host/: no such host", "connection")
    metrics.source("coingecko").paused("quotes", 0.0, unreachable)
    failing = {"source": "coingecko", "operation": "quotes", "kind": "connection", "problem": str(unreachable)}
    assert pauses() == [{**failing, "pause_s": 0.0}]


def test_views_show_the_highest_revision_of_a_score(read_model: ReadModel) -> None:
    made = builders.prediction(START)
    first, second = builders.score(made, error_bps=9.0), builders.score(made, error_bps=4.0, revision=1)
    assert read_model.apply(TopicRole.PREDICTION_SCORES, first, START)
    assert read_model.apply(TopicRole.PREDICTION_SCORES, second, START)
    assert not read_model.apply(TopicRole.PREDICTION_SCORES, first, START)
    document = responses.scores(read_model, "BTC-USD", 10)
    assert document["scores"] == [second]
    assert [(row["n"], row["mean_abs_error_bps"]) for row in document["summary"]] == [(1, 4.0)]
