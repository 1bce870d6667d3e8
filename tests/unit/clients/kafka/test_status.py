"""The status of a part: what each call changes, and that none waits for Kafka."""

import time

import pytest

from clients.kafka.status import PartReporter, StatusPublisher
from marketdata.codec import decode, encode
from marketdata.errors import StorageError
from marketdata.records import PartStatus
from marketdata.times import to_rfc3339
from marketdata.vocabulary import Activity, ProductPart
from tests.support.builders import START_MS
from tests.support.fake_clock import FakeClock
from tests.support.stack import free_ports, settings_with


def made(clock: FakeClock, changes: list[str]) -> PartReporter:
    return PartReporter(ProductPart.RAW, "", 5.0, changes.append, clock.now_ms)


def test_each_call_changes_the_status_and_only_changes_are_published_at_once() -> None:
    clock, changes = FakeClock(START_MS), list[str]()
    reporter = made(clock, changes)
    first = reporter.status()
    assert (first.state, first.reason, first.last_success, first.lag) == (Activity.WAITING, "starting", None, None)
    assert (first.part, first.next_report_s, first.since) == ("raw", 5.0, to_rfc3339(START_MS))
    clock.ms += 1_000
    reporter.waiting("HDFS")
    reporter.waiting("HDFS")
    assert changes == [reporter.key]
    assert reporter.status().since == to_rfc3339(START_MS)  # it still waits
    clock.ms += 1_000
    reporter.succeeded()
    reporter.set_lag(8)
    reporter.succeeded()
    assert len(changes) == 2
    found = reporter.status()
    assert (found.state, found.reason, found.lag) == (Activity.RUNNING, None, 8)
    assert found.since == found.last_success == found.reported_at == to_rfc3339(START_MS + 2_000)
    clock.ms += 1_000
    reporter.failing("x" * 10_000)
    failing = reporter.status()
    assert (failing.state, failing.since) == (Activity.FAILING, to_rfc3339(START_MS + 3_000))
    assert failing.reason is not None
    assert len(failing.reason) < 600
    assert failing.last_success == found.last_success
    assert decode(PartStatus, encode(failing)) == failing


def test_nothing_follows_the_last_report() -> None:
    clock, changes = FakeClock(START_MS), list[str]()
    reporter = made(clock, changes)
    reporter.end(Activity.DONE)
    reporter.running()
    reporter.end(Activity.STOPPED)
    last = reporter.status()
    assert (last.state, last.next_report_s, last.last_success) == (Activity.DONE, None, to_rfc3339(START_MS))
    assert changes == [reporter.key]


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (None, Activity.STOPPED, None),
        (KeyboardInterrupt(), Activity.STOPPED, None),
        (StorageError("hdfs.url: no answer\nmore"), Activity.FAILING, "hdfs.url: no answer"),
        (ValueError("odd"), Activity.FAILING, "ValueError('odd')"),
    ],
)
def test_the_end_of_the_context_is_reported_without_waiting_for_kafka(
    error: BaseException | None, state: Activity, reason: str | None
) -> None:
    settings = settings_with({"BDI_KAFKA__BROKERS": f"127.0.0.1:{free_ports(1)[0]}"})
    began = time.monotonic()
    publisher = StatusPublisher(settings)
    reporter = publisher.part(ProductPart.RAW)
    done = publisher.part(ProductPart.BACKFILL)

    def use() -> None:
        with publisher:
            done.end(Activity.DONE)
            if error is not None:
                raise error

    if error is None:
        use()
    else:
        with pytest.raises(type(error)):
            use()
    assert time.monotonic() - began < 2.5
    assert (reporter.status().state, reporter.status().reason) == (state, reason)
    assert done.status().state is Activity.DONE
