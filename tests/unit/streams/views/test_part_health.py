"""The parts of other programs, and HDFS, in /api/health and /metrics."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from config import Settings
from marketdata.codec import encode
from marketdata.times import to_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import Activity, ProductPart
from streams.views import part_health, responses
from streams.views.exposition import ReadModelCollector
from streams.views.follower import Follower
from streams.views.read_model import HdfsView, KafkaView, ReadModel
from tests.fuzz.cases import Case
from tests.support.builders import START_MS, part_status

UNIX_MS = START_MS + 730 * 86_400_000
"""Unix time differs from event time in a replay."""
CONNECTED = KafkaView(connected=True)


@pytest.fixture
def read_model() -> ReadModel:
    return ReadModel(["BTC-USD"])


def report(read_model: ReadModel, part: str, state: Activity, age_s: float = 1.0, **fields: Any) -> None:
    status = part_status(UNIX_MS - 60_000, part, state=state, **fields)
    read_model.apply_status(status, UNIX_MS - round(age_s * 1000))


def programs(read_model: ReadModel, hdfs: HdfsView | None = None, kafka: KafkaView = CONNECTED) -> dict[str, Any]:
    """Return `programs` of the health by part, and its state as `overall`."""
    summaries = part_health.summaries(read_model, hdfs or HdfsView(), kafka, UNIX_MS)
    documents = part_health.documents(summaries, kafka, UNIX_MS)
    health = responses.health(read_model, kafka, Settings(), START_MS, programs=documents)
    return {one["part"]: one for one in health["programs"]} | {"overall": health["state"]}


def states(found: dict[str, Any]) -> dict[str, str]:
    return {part: one["state"] for part, one in found.items() if part != "overall"}


def test_every_part_is_listed_and_unknown_ones_do_not_change_the_overall_state(read_model: ReadModel) -> None:
    found = programs(read_model)
    assert states(found) == dict.fromkeys([*ProductPart, "hdfs"], "unknown")
    assert found["raw"]["reason"] == "no report"
    assert found["overall"] == "waiting"  # for the topics' first records


def test_running_waiting_failing_done_and_dead_parts(read_model: ReadModel) -> None:
    report(read_model, "raw", Activity.RUNNING)
    report(read_model, "hourly", Activity.WAITING, reason="the first hour", last_success=None)
    report(read_model, "forecaster", Activity.FAILING, reason="hdfs.webhdfs: no answer")
    report(read_model, "trainer", Activity.RUNNING, age_s=16.0)
    report(read_model, "backfill", Activity.DONE, age_s=9_999.0, next_report_s=None)
    found = programs(read_model)
    assert states(found) == {
        "raw": "ok", "hourly": "waiting", "forecaster": "outage", "trainer": "outage", "backfill": "ok",
        "hdfs": "unknown",
    }  # fmt: skip
    assert found["overall"] == "outage"
    died = to_rfc3339(UNIX_MS - 16_000)
    assert (found["trainer"]["status"], found["trainer"]["since"]) == ("unknown", died)
    assert found["trainer"]["reason"] == f"no report since {died}; it was running then"
    assert (found["trainer"]["since_age_s"], found["raw"]["success_age_s"]) == (16.0, 60.0)
    since = to_rfc3339(UNIX_MS - 60_000)
    assert (found["forecaster"]["status"], found["forecaster"]["since"]) == ("failing", since)
    assert (found["raw"]["last_success"], found["raw"]["lag"], found["raw"]["instances"]) == (since, 3, 1)


def test_hdfs_is_failing_since_the_first_failed_probe(read_model: ReadModel) -> None:
    hdfs = HdfsView()
    hdfs.note(None, UNIX_MS - 30_000)
    assert programs(read_model, hdfs)["hdfs"]["state"] == "ok"
    hdfs.note("does not listen", UNIX_MS - 20_000)
    hdfs.note("does not listen", UNIX_MS - 10_000)
    found = programs(read_model, hdfs)["hdfs"]
    assert (found["state"], found["status"], found["reason"]) == ("outage", "failing", "does not listen")
    assert (found["since"], found["last_success"]) == (to_rfc3339(UNIX_MS - 20_000), to_rfc3339(UNIX_MS - 30_000))


def test_without_kafka_the_parts_are_unknown_and_hdfs_is_not(read_model: ReadModel) -> None:
    report(read_model, "raw", Activity.RUNNING)
    hdfs = HdfsView()
    hdfs.note(None, UNIX_MS)
    found = programs(read_model, hdfs, KafkaView(connected=False))
    assert states(found) == dict.fromkeys(ProductPart, "unknown") | {"hdfs": "ok"}
    assert found["raw"]["reason"] == "its reports cannot be read from Kafka"


def test_the_metrics_have_one_state_of_each_part(read_model: ReadModel) -> None:
    report(read_model, "raw", Activity.RUNNING)
    registry = CollectorRegistry()
    registry.register(
        ReadModelCollector(
            read_model,
            lambda: START_MS,
            [],
            lambda: part_health.summaries(read_model, HdfsView(), CONNECTED, UNIX_MS),
        )
    )

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"bitcoin_part_{name}", labels)

    assert value("state", part="raw", state="running") == 1
    assert value("state", part="raw", state="failing") == 0
    assert value("state", part="trainer", state="unknown") == 1
    assert value("lag", part="raw") == 3
    assert value("lag", part="trainer") is None
    assert value("last_success_timestamp_seconds", part="raw") == (UNIX_MS - 60_000) / 1000
    assert value("last_report_timestamp_seconds", part="raw") == (UNIX_MS - 1_000) / 1000


def test_reports_are_stored_whatever_their_time_and_in_bounded_number(read_model: ReadModel) -> None:
    settings = Settings()
    follower = Follower(settings, read_model, lambda _role, _record: None, lambda: START_MS)
    topic = settings.topic(TopicRole.PART_STATUS).name
    for n in range(100):
        value = encode(part_status(UNIX_MS, instance=f"host:{n}"))
        case = Case(TopicRole.PART_STATUS, b"raw/host:1", value, 2**62, ())
        follower._apply(TopicRole.PART_STATUS, case.record(topic, n))
    assert len(read_model.reports) == 64
    assert ("raw", "host:99") in read_model.reports
    assert read_model.topics[TopicRole.PART_STATUS].skipped == 0
    programs(read_model)
