"""The rules of a clean tick in one expression say what the table of rules says."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.records import Tick
from streams.agents.validity import RULES, holds_all

TIMESTAMP = "2024-08-05T00:00:00.000Z"
_NUMBER_FIELDS = ["price", "price_usd", "bid_price", "bid_qty", "ask_price", "ask_qty", "high_24h", "low_24h"]
_FIELDS = [*_NUMBER_FIELDS, "volume_24h", "market_cap", "n_updates", "n_trades", "traded_volume", "vwap"]
# Few values, so that equal, crossed and missing ones meet often.
_NUMBERS = st.sampled_from([None, 1.0, 2.0, 1.0, 2.0, 0.0, -1.0, 1e-18, 9e-19, 1e18, 1.1e18, 1e24, 1.1e24])


@st.composite
def ticks(draw: st.DrawFn) -> Tick:
    """Mostly one thing or nothing wrong."""
    fields: dict[str, Any] = {"price": 1.0, "price_usd": 1.0, "bid_price": 1.0, "ask_price": 2.0}
    fields |= {"low_24h": 1.0, "high_24h": 2.0}
    changed = draw(st.dictionaries(st.sampled_from(_FIELDS), _NUMBERS, max_size=3))
    symbol = draw(st.sampled_from(["BTC-USD", "BTC-USD", "BTC-USD", "btc-USD", "BTC-EUR", "BTC"]))
    quote = draw(st.sampled_from(["USD", "USD", "USD", "EUR"]))
    tick_id = draw(st.sampled_from([f"{symbol}|{TIMESTAMP}"] * 3 + ["BTC-USD"]))
    if draw(st.booleans()):
        changed.setdefault("price_usd", changed.get("price", 1.0) if quote == "USD" else None)
    return Tick(symbol=symbol, tick_id=tick_id, timestamp=TIMESTAMP, quote=quote, **(fields | changed))


@settings(max_examples=2_000, deadline=None)
@given(ticks())
def test_one_expression_says_what_the_table_says(tick: Tick) -> None:
    assert holds_all(tick) == all(rule.holds(tick) for rule in RULES)
