"""The documents name what the code has: an undocumented topic, field or setting fails here."""

import re

import pytest

from config.__main__ import document
from marketdata import candle_rules, tick_rules
from marketdata.hourly import SCHEMA
from marketdata.records import RECORDS, WindowFeatures
from marketdata.rules import Rule
from marketdata.topics import TOPICS, Topic
from tests.support.paths import DOCS

WIRE_RECORDS = sorted(set(RECORDS) - {"HourlyRow"})  # stands in Parquet, never on a topic


def words_in_code(text: str) -> set[str]:
    """What stands in backquotes."""
    return {part for quoted in re.findall(r"`([^`]+)`", text) for part in re.split(r"[^\w.-]+", quoted)}


@pytest.mark.parametrize("topic", TOPICS.values(), ids=lambda topic: topic.name)
def test_every_topic_is_documented(topic: Topic) -> None:
    days = topic.retention_ms // 86_400_000
    kept = "forever" if topic.retention_ms < 0 else f"{days} days"
    assert f"| `{topic.name}` | {topic.role} | {topic.record} | {kept} |" in (DOCS / "topics.md").read_text()


@pytest.mark.parametrize("name", WIRE_RECORDS)
def test_every_field_of_a_record_is_documented_in_its_section(name: str) -> None:
    section = (DOCS / "topics.md").read_text().split(f"\n## {name}\n")[1].split("\n## ")[0]
    fields = set(RECORDS[name].__struct_fields__)
    if name == "FeatureRow":
        fields |= set(WindowFeatures.__struct_fields__)
    assert fields - words_in_code(section) == set()


def test_every_column_of_an_hourly_row_is_documented() -> None:
    section = (DOCS / "features.md").read_text().split("\n## Hourly rows\n")[1]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert set(SCHEMA.names) == set().union(*map(words_in_code, rows))


def test_the_example_in_the_documents_is_the_one_that_is_tested() -> None:
    example = (DOCS.parent / "examples" / "consume_predictions.py").read_text()
    shown = (DOCS / "topics.md").read_text().split("```python\n")[1].split("```")[0]
    assert example.partition('"""\n\n')[2] == shown


def test_every_setting_is_documented_as_the_code_says() -> None:
    assert (DOCS / "settings.md").read_text() == document()
    assert "None |" not in document()  # a setting without a text


@pytest.mark.parametrize(
    ("heading", "rule"),
    [("When a tick is clean", rule) for rule in tick_rules.RULES]
    + [("When a candle is accepted", rule) for rule in candle_rules.RULES],
)
def test_every_rule_is_documented(heading: str, rule: Rule) -> None:
    text = (DOCS / "topics.md").read_text().split(f"### {heading}\n")[1].split("\n## ")[0]
    expected = rule.expected.replace("|", "\\|")
    rows = [line for line in text.splitlines() if line.endswith(f"| `{rule.reason}` | {expected} |")]
    assert len(rows) == 1
    assert f"`{rule.field}`" in rows[0]
