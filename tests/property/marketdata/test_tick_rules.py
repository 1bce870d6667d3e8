"""The rules of a clean tick: the single expression is equivalent to the table."""

from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.tick_rules import RULES, holds_all
from tests.support.odd_records import odd_tick


@settings(max_examples=2_000, deadline=None)
@given(st.data())
def test_the_expression_is_equivalent_to_the_table(data: st.DataObject) -> None:
    tick = odd_tick(lambda some: data.draw(st.sampled_from(some)))
    assert holds_all(tick) == all(rule.holds(tick) for rule in RULES)
