"""The rules of a clean tick in one expression say what the table of rules says."""

from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.tick_rules import RULES, holds_all
from tests.support.odd_records import odd_tick


@settings(max_examples=2_000, deadline=None)
@given(st.data())
def test_one_expression_says_what_the_table_says(data: st.DataObject) -> None:
    tick = odd_tick(lambda some: data.draw(st.sampled_from(some)))
    assert holds_all(tick) == all(rule.holds(tick) for rule in RULES)
