"""The state of a part from the reports of its instances: the dead, the failing, the waiting, those that ended."""

import pytest

from marketdata.part_status import Report, summarise
from marketdata.times import to_rfc3339
from marketdata.vocabulary import Activity
from tests.support.builders import START_MS, part_status

NOW_MS = START_MS + 60_000


def report(
    state: Activity, age_s: float, instance: str = "a:1", *, reason: str | None = None, last: bool = False
) -> Report:
    """A status that arrived `age_s` ago; `last`: no further one follows."""
    period_s = None if last else 5.0
    status = part_status(START_MS, instance=instance, state=state, reason=reason, next_report_s=period_s)
    return Report(status, NOW_MS - round(age_s * 1000))


def test_a_part_that_never_reported_is_unknown() -> None:
    found = summarise("raw", [], NOW_MS)
    assert (found.state, found.reason, found.instances) == ("unknown", "no report", 0)
    assert found.last_report_ms is None
    assert not found.is_healthy


def test_a_running_part() -> None:
    found = summarise("raw", [report(Activity.RUNNING, 15.0)], NOW_MS)
    assert (found.state, found.reason, found.instances, found.lag) == ("running", None, 1, 3)
    assert (found.since_ms, found.last_success_ms, found.last_report_ms) == (START_MS, START_MS, NOW_MS - 15_000)
    assert found.is_healthy


@pytest.mark.parametrize("state", [Activity.RUNNING, Activity.WAITING, Activity.FAILING])
def test_a_part_that_died_says_since_when_there_is_no_report(state: Activity) -> None:
    found = summarise("raw", [report(state, 15.001), report(state, 400.0, "b:2")], NOW_MS)
    since = to_rfc3339(NOW_MS - 15_001)
    assert (found.state, found.reason) == ("unknown", f"no report since {since}; it was {state} then")
    assert (found.since_ms, found.last_report_ms, found.instances) == (NOW_MS - 15_001, NOW_MS - 15_001, 0)
    assert not found.is_healthy


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((Activity.WAITING, Activity.RUNNING), "running"),
        ((Activity.RUNNING, Activity.WAITING, Activity.FAILING), "failing"),
        ((Activity.WAITING,), "waiting"),
    ],
)
def test_of_several_instances_the_most_telling_counts(states: tuple[Activity, ...], expected: str) -> None:
    reports = [report(state, 1.0 + n, f"a:{n}") for n, state in enumerate(states)]
    found = summarise("raw", reports, NOW_MS)
    assert (found.state, found.instances) == (expected, len(states))


def test_an_instance_that_is_dead_or_ended_does_not_hide_one_that_runs() -> None:
    reports = [
        report(Activity.FAILING, 100.0, "dead:1"),
        report(Activity.FAILING, 0.0, "ended:2", last=True),
        report(Activity.RUNNING, 4.0, "runs:3"),
    ]
    assert summarise("raw", reports, NOW_MS).state == "running"


@pytest.mark.parametrize(
    ("state", "is_healthy"), [(Activity.DONE, True), (Activity.STOPPED, False), (Activity.FAILING, False)]
)
def test_a_last_report_is_not_overdue(state: Activity, is_healthy: bool) -> None:
    ended = report(state, 86_400.0, reason="the reason", last=True)
    found = summarise("backfill", [ended, report(Activity.RUNNING, 90_000.0, "dead:1")], NOW_MS)
    assert (found.state, found.reason, found.instances) == (state, "the reason", 0)
    assert found.is_healthy == is_healthy
