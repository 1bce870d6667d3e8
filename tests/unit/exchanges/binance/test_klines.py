"""One validation of klines: rows of REST, lines of archives and messages of the WebSocket give the same candle."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from exchanges.binance.klines import Kline, as_of_ms, closed_klines, closed_minute_candles, csv_row, parse_row
from exchanges.binance.stream import BinanceStream
from marketdata.errors import InvalidValueError
from marketdata.markets import Market
from marketdata.records import Candle
from marketdata.times import HOUR_MS, MINUTE_MS, from_rfc3339
from tests.support.paths import ROOT

NOON = from_rfc3339("2024-08-05T12:00:00Z")
ROW = [NOON, "10", "12", "9", "11", "3.5", NOON + MINUTE_MS - 1, "35", 7, "1", "10", "0"]
KLINE = Kline(NOON, NOON + MINUTE_MS - 1, 10, 12, 9, 11, 3.5, 35, 7, 1, 10)

Read = Callable[[list[Any]], Candle]


def changed(**values: Any) -> list[Any]:
    """ROW with other values: `at3="8"`."""
    row: list[Any] = [*ROW]
    for name, value in values.items():
        row[int(name.removeprefix("at"))] = value
    return row


def from_rest(row: list[Any]) -> Candle:
    [candle] = closed_minute_candles("BTC-USD", [row], NOON + HOUR_MS)
    return candle


def from_archive(row: list[Any]) -> Candle:
    return parse_row(csv_row([str(value) for value in row]), "1m").minute_candle("BTC-USD")


def from_websocket(row: list[Any]) -> Candle:
    names = ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q", "B")
    kline = dict(zip(names, row, strict=False)) | {"i": "1m", "x": True}
    source = BinanceStream("wss://host", [Market("BTC", "USD")])
    event = source.parse(json.dumps({"stream": "btcusdt@kline_1m", "data": {"e": "kline", "k": kline}}))
    assert isinstance(event, Candle)
    return event


@pytest.mark.parametrize("read", [from_rest, from_archive, from_websocket])
@pytest.mark.parametrize(
    "row",
    [
        ROW,
        [*ROW, "appended", 1],
        ROW[:11],
        changed(at0=NOON * 1000, at6=(NOON + MINUTE_MS) * 1000 - 1),
    ],
)
def test_a_valid_row_is_the_same_candle(read: Read, row: list[Any]) -> None:
    assert read(row) == Candle(
        symbol="BTC-USD",
        open_time="2024-08-05T12:00:00.000Z",
        open=10.0,
        high=12.0,
        low=9.0,
        close=11.0,
        volume=3.5,
        quote_volume=35.0,
        n_trades=7,
        taker_buy_volume=1.0,
        taker_buy_quote_volume=10.0,
    )


@pytest.mark.parametrize(("read", "prefix"), [(from_rest, "klines[0]."), (from_archive, ""), (from_websocket, "k.")])
@pytest.mark.parametrize(
    ("row", "field", "expected"),
    [
        (changed(at0=NOON + 1), "open_time", "start of an interval"),
        (changed(at6=NOON), "close_time", "last millisecond of the interval of 1m from open_time"),
        (changed(at6=NOON + MINUTE_MS), "close_time", "last millisecond of the interval"),
        (changed(at6=NOON + 1_838), "close_time", "last millisecond of the interval"),  # trading halted in the minute
        (changed(at1="ten"), "open", "decimal number as a string"),
        (changed(at1=""), "open", "decimal number as a string"),
        (changed(at7="nan"), "quote_volume", "decimal number as a string"),
        (changed(at4="1e999"), "close", "decimal number as a string"),
        (changed(at2="10.5"), "close", "a number <= high"),
        (changed(at3="10.5"), "low", "a number <= open"),
        (changed(at3="0"), "low", "a number > 0"),
        (changed(at2="1e19"), "high", "a number <= 1e\\+18"),
        (changed(at5="-1"), "volume", "a number >= 0"),
        (changed(at9="-1"), "taker_buy_volume", "a number >= 0"),
        (changed(at8=-1), "n_trades", "a number >= 0"),
    ],
)
def test_an_invalid_row_is_refused_and_named(
    read: Read, prefix: str, row: list[Any], field: str, expected: str
) -> None:
    with pytest.raises(InvalidValueError, match=expected) as caught:
        read(row)
    assert caught.value.field == prefix + field


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({}, "klines"),
        ([[1, 2]], "klines[0].row"),
        ([ROW, {}], "klines[1].row"),
        ([ROW, ROW[:10]], "klines[1].row"),
        ([ROW, changed(at2=12.0)], "klines[1].high"),
        ([changed(at8="7")], "klines[0].n_trades"),
        ([changed(at8=True)], "klines[0].n_trades"),
        ([changed(at8=10**30)], "klines[0].n_trades"),
        ([changed(at0=str(NOON))], "klines[0].open_time"),
    ],
)
def test_a_response_of_the_wrong_shape_is_refused(payload: Any, field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        closed_klines(payload, "1m", NOON + HOUR_MS)
    assert caught.value.field == field


def test_the_error_shows_the_row_that_breaks_a_rule() -> None:
    with pytest.raises(
        InvalidValueError, match=rf"klines\[0\]\.low: \[{NOON}, '10', '12', '11', .*: expected a number <= open"
    ):
        closed_klines([changed(at3="11")], "1m", NOON + HOUR_MS)


def test_a_kline_has_the_values_of_its_row() -> None:
    assert parse_row(ROW, "1m") == KLINE
    with pytest.raises(InvalidValueError, match="at least 11"):
        parse_row(ROW[:8], "1m")


def test_the_grid_is_that_of_the_interval() -> None:
    hour = changed(at6=NOON + HOUR_MS - 1)
    assert parse_row(hour, "1h").close_ms == NOON + HOUR_MS - 1
    with pytest.raises(InvalidValueError, match="close_time"):
        parse_row(hour, "1m")
    with pytest.raises(InvalidValueError, match="open_time"):
        parse_row(changed(at0=NOON + MINUTE_MS, at6=NOON + HOUR_MS - 1), "1h")


@pytest.mark.parametrize("text", ["", "7.5", "7.", "0x7", "-", "٧", "7" * 5_000])
def test_an_integer_of_an_archive_that_is_none_is_refused(text: str) -> None:
    line = [str(value) for value in changed(at8=text)]
    with pytest.raises(InvalidValueError, match="n_trades"):
        parse_row(csv_row(line), "1m")


def test_a_candle_is_closed_when_it_ended_before_the_given_time() -> None:
    rows = [ROW, changed(at0=NOON + MINUTE_MS, at6=NOON + 2 * MINUTE_MS - 1)]
    for as_of, opens in (
        (NOON + MINUTE_MS - 1, []),
        (NOON + MINUTE_MS, [NOON]),
        (NOON + 2 * MINUTE_MS, [NOON, NOON + MINUTE_MS]),
    ):
        assert [kline.open_ms for kline in closed_klines(rows, "1m", as_of)] == opens


def test_rows_that_are_not_valid_are_left_out_and_reported_unless_they_are_unfinished() -> None:
    later = changed(at0=NOON + MINUTE_MS, at6=NOON + 2 * MINUTE_MS - 1)
    rows = [ROW, ROW[:8], changed(at0=NOON + 1), later, changed(at0=1, at6=NOON + HOUR_MS), {}, None]
    refused: list[tuple[Any, str]] = []
    klines = closed_klines(rows, "1m", NOON + HOUR_MS, lambda row, error: refused.append((row, error.field)))
    assert [kline.open_ms for kline in klines] == [NOON, NOON + MINUTE_MS]
    assert refused == [
        (rows[1], "klines[1].row"),
        (rows[2], "klines[2].open_time"),
        ({}, "klines[5].row"),
        (None, "klines[6].row"),
    ]


def test_a_candle_that_was_cut_short_is_left_out() -> None:
    rows = json.loads((ROOT / "tests/data/payloads/klines_short_close_1m.json").read_text())
    refused: list[str] = []
    [kline] = closed_klines(rows, "1m", rows[1][6] + 1, lambda _row, error: refused.append(str(error)))
    assert kline.open_ms == rows[1][0]
    assert len(refused) == 1


def test_the_exchanges_clock_decides_unless_ours_is_behind() -> None:
    date = {"date": "Mon, 05 Aug 2024 12:00:00 GMT"}
    assert as_of_ms(NOON + 1, date) == NOON
    assert as_of_ms(NOON - 1, date) == NOON - 1
    assert as_of_ms(NOON + 1, {}) == as_of_ms(NOON + 1, {"date": "soon"}) == NOON + 1
