"""The rules of a valid candle: the single expression is equivalent to the table."""

from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.candle_rules import RULES, numbers_hold
from tests.support.odd_records import odd_candle


@settings(max_examples=2_000, deadline=None)
@given(st.data())
def test_the_expression_is_equivalent_to_the_table(data: st.DataObject) -> None:
    candle = odd_candle(lambda some: data.draw(st.sampled_from(some)))
    assert numbers_hold(candle) == all(rule.holds(candle) for rule in RULES if rule.field != "symbol")
