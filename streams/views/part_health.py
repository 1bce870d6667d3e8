"""Health of the parts that run in other programs: from their reports on `part-status`, and HDFS from a probe.

Their times are Unix time of the programs' machines, not event time: they describe programs, not market data.
"""

from collections.abc import Iterable
from typing import Any

from marketdata.part_status import UNKNOWN, PartSummary, summarise
from marketdata.times import to_rfc3339
from marketdata.vocabulary import Activity, ProductPart
from streams.views.read_model import HdfsView, KafkaView, ReadModel

HDFS = "hdfs"
_TEXTS = {
    ProductPart.RAW: ("Raw data", "ticks and candles to HDFS"),
    ProductPart.HOURLY: ("Hourly rows", "closed hours to HDFS"),
    ProductPart.BACKFILL: ("Backfill", "history from klines"),
    ProductPart.FORECASTER: ("Forecaster", "predictions and scores"),
    ProductPart.TRAINER: ("Trainer", "training of models"),
    HDFS: ("HDFS", "storage of tables and models"),
}
_STATES = {
    Activity.RUNNING: "ok",
    Activity.DONE: "ok",
    Activity.WAITING: "waiting",
    Activity.STOPPED: "waiting",
    Activity.FAILING: "outage",
}


def summaries(read_model: ReadModel, hdfs: HdfsView, kafka: KafkaView, unix_ms: int) -> list[PartSummary]:
    """Return the present state of each part; without Kafka, the reports of the parts are not known.

    Args:
        read_model: the newest reports.
        hdfs: the newest probe.
        kafka: state of the brokers.
        unix_ms: Unix time now.
    """
    found = []
    for part in ProductPart:
        reports = [report for report in read_model.reports.values() if report.status.part == part]
        if kafka.connected:
            found.append(summarise(part, reports, unix_ms))
        else:
            last_ms = max((report.arrived_ms for report in reports), default=None)
            found.append(PartSummary(part, UNKNOWN, "its reports cannot be read from Kafka", last_report_ms=last_ms))
    return [*found, _hdfs(hdfs)]


def _hdfs(view: HdfsView) -> PartSummary:
    if view.checked_ms is None:
        return PartSummary(HDFS, UNKNOWN, "not checked yet")
    state = Activity.RUNNING if view.problem is None else Activity.FAILING
    return PartSummary(HDFS, state, view.problem, view.since_ms, view.healthy_ms, view.checked_ms, instances=1)


def health_state(summary: PartSummary, kafka: KafkaView) -> str:
    """Return the state of health: `outage` for a part that fails or died, `unknown` for one that never reported."""
    if summary.state != UNKNOWN:
        return _STATES[Activity(summary.state)]
    return "outage" if kafka.connected and summary.last_report_ms is not None else UNKNOWN


def documents(summaries: Iterable[PartSummary], kafka: KafkaView, unix_ms: int) -> list[dict[str, Any]]:
    """Return the field `programs` of /api/health."""
    return [_document(summary, kafka, unix_ms) for summary in summaries]


def _document(summary: PartSummary, kafka: KafkaView, unix_ms: int) -> dict[str, Any]:
    name, what = _TEXTS[ProductPart(summary.part) if summary.part != HDFS else HDFS]

    def time(ms: int | None) -> str | None:
        return None if ms is None else to_rfc3339(ms)

    def age_s(ms: int | None) -> float | None:
        return None if ms is None else max(unix_ms - ms, 0) / 1000

    return {
        "part": summary.part,
        "name": name,
        "what": what,
        "state": health_state(summary, kafka),
        "status": summary.state,
        "reason": summary.reason,
        "since": time(summary.since_ms),
        "since_age_s": age_s(summary.since_ms),
        "last_success": time(summary.last_success_ms),
        "success_age_s": age_s(summary.last_success_ms),
        "last_report": time(summary.last_report_ms),
        "lag": summary.lag,
        "instances": summary.instances,
    }
