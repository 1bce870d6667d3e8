"""The state of a part of the product, from the reports of its instances. Pure.

Several instances of a part can run, and a dead one does not report that it is dead. Times are Unix time in ms.
"""

from collections.abc import Collection
from dataclasses import dataclass

from marketdata.records import PartStatus
from marketdata.times import SECOND_MS, from_rfc3339, to_rfc3339
from marketdata.vocabulary import Activity

MISSED_REPORTS = 3
"""An instance without a report for this many of its periods is dead, or cannot reach Kafka."""
UNKNOWN = "unknown"
"""The state of a part without a valid report."""

_PRECEDENCE = (Activity.FAILING, Activity.RUNNING, Activity.WAITING)


@dataclass(frozen=True, slots=True)
class Report:
    """A status, and its arrival at the broker in ms."""

    status: PartStatus
    arrived_ms: int

    @property
    def key(self) -> tuple[str, str]:
        """Part and instance."""
        return self.status.part, self.status.instance


@dataclass(frozen=True, slots=True)
class PartSummary:
    """The present state of a part.

    state: an `Activity`, or `unknown`. since_ms: the beginning of the state; of an unknown one, the last report.
    instances: those that report in time. lag: as in `PartStatus`.
    """

    part: str
    state: str
    reason: str | None = None
    since_ms: int | None = None
    last_success_ms: int | None = None
    last_report_ms: int | None = None
    lag: int | None = None
    instances: int = 0

    @property
    def is_healthy(self) -> bool:
        """Whether the part runs, waits, or ended successfully."""
        return self.state in (Activity.RUNNING, Activity.WAITING, Activity.DONE)


def is_reporting(report: Report, now_ms: int) -> bool:
    """Whether further reports of this instance follow, and none is overdue."""
    period_s = report.status.next_report_s
    return period_s is not None and now_ms - report.arrived_ms <= MISSED_REPORTS * period_s * SECOND_MS


def summarise(part: str, reports: Collection[Report], now_ms: int) -> PartSummary:
    """Return the state of a part.

    Of the instances that report in time, one that fails precedes one that runs, and that one precedes one that waits (a
    second `raw` waits for the first). Without any, the newest report counts: a last report, or the last sign of life.

    Args:
        part: its name.
        reports: the newest report of each of its instances.
        now_ms: the present Unix time, by a clock close to the broker's.
    """
    if not reports:
        return PartSummary(part, UNKNOWN, "no report")
    success_ms = max((_time(report.status.last_success) or 0 for report in reports), default=0) or None
    last_ms = max(report.arrived_ms for report in reports)
    live = [report for report in reports if is_reporting(report, now_ms)]
    newest = max(
        live or reports,
        key=lambda report: (-_PRECEDENCE.index(report.status.state) if live else 0, report.arrived_ms),
    )
    status = newest.status
    if not live and status.next_report_s is not None:
        reason = f"no report since {to_rfc3339(newest.arrived_ms)}; it was {status.state} then"
        return PartSummary(part, UNKNOWN, reason, newest.arrived_ms, success_ms, last_ms, status.lag)
    return PartSummary(
        part, status.state, status.reason, _time(status.since), success_ms, last_ms, status.lag, len(live)
    )


def _time(text: str | None) -> int | None:
    return None if text is None else from_rfc3339(text)
