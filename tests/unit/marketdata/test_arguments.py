"""Types of command-line arguments: times and markets refuse hostile values with one error of exit code 2."""

import pytest

from marketdata.arguments import find_market, time_range
from marketdata.errors import ArgumentError

AT = "2024-08-05T00:00:00Z"
HOSTILE = (
    *("", " ", "now", "0", "-1", "1722816000000", "inf", "2024-08-05", "2024-08-05T00:00:00", "2024-02-30T00:00:00Z"),
    *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59Z", "1969-12-31T23:59:59Z", "2024-08-05T24:00:01Z", "9" * 5_000),
    "٢٠٢٤-08-05T00:00:00Z",
)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:30]))
@pytest.mark.parametrize("option", ["--from", "--to"])
def test_a_hostile_time_names_the_option(text: str, option: str) -> None:
    with pytest.raises(ArgumentError) as refused:
        time_range(*((text, None) if option == "--from" else (None, text)))
    assert refused.value.field == option
    assert refused.value.exit_code == 2
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("end", [AT, "2024-08-05T01:59:59.999+02:00"])
def test_a_range_that_ends_before_it_begins_is_refused(end: str) -> None:
    with pytest.raises(ArgumentError, match=f"^--to: .*: expected a time after --from \\({AT}\\)$"):
        time_range(AT, end)


def test_a_range_is_read_into_milliseconds_and_may_be_open() -> None:
    assert time_range(None, None) == (None, None)
    assert time_range(AT, "2024-08-05T00:00:00.001Z") == (1_722_816_000_000, 1_722_816_000_001)


@pytest.mark.parametrize("text", ["", "BTCUSD", "BTC-USD;", "../x", "x" * 5_000])
def test_a_hostile_market_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"^--symbol: .*: expected one of BTC-USD, ETH-EUR") as refused:
        find_market(text, ("BTC-USD", "ETH-EUR"), "--symbol")
    assert refused.value.exit_code == 2
    assert find_market(" eth-eur ", ("BTC-USD", "ETH-EUR")) == "ETH-EUR"
