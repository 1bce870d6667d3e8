"""The rules of a candle: each violation is reported with field and reason, and a valid candle passes."""

from typing import Any

import pytest
from msgspec.structs import replace

from marketdata import candle_rules
from marketdata.bounds import MAX_AMOUNT, MAX_PRICE, MIN_PRICE
from marketdata.errors import DecodeError
from marketdata.times import MINUTE_MS
from tests.support.broken_candles import BROKEN, CANDLE


@pytest.mark.parametrize(("change", "field", "reason"), BROKEN)
def test_a_violated_rule_is_reported(change: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(DecodeError) as error:
        candle_rules.check(replace(CANDLE, **change))
    assert (error.value.field, error.value.reason) == (field, reason)


def test_a_candle_must_be_closed_by_the_clock() -> None:
    end_ms = CANDLE.open_time_ms + MINUTE_MS
    candle_rules.check(CANDLE, end_ms)
    with pytest.raises(DecodeError) as error:
        candle_rules.check(CANDLE, end_ms - 1)
    assert (error.value.field, error.value.reason) == ("open_time", "future")


def test_a_valid_candle_passes() -> None:
    candle_rules.check(CANDLE)
    candle_rules.check(replace(CANDLE, quote_volume=0.0, n_trades=0))
    candle_rules.check(replace(CANDLE, open=MIN_PRICE, low=MIN_PRICE, high=MAX_PRICE, volume=MAX_AMOUNT))
    candle_rules.check(replace(CANDLE, interval="1h", open_time="2024-08-05T01:00:00.000Z"))
