"""Lists what the tables lack: records that `raw` skipped as lost, and missing hours of each market. Without Spark."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import to_builtins

from batch.tables.lost_ranges import LostRange, read_lost_ranges
from batch.tables.stored_times import gap_ranges, stored_times
from clients.webhdfs import WebHdfs
from config import Settings
from marketdata.times import HOUR_MS


@dataclass(frozen=True, slots=True)
class Gaps:
    """What the tables lack.

    Attributes:
        lost: ranges of Kafka records that were skipped, oldest first.
        hours: by symbol, the ranges of hours without a row in hourly_metrics, as `from/to` (exclusive).
    """

    lost: tuple[LostRange, ...]
    hours: Mapping[str, list[str]]

    def as_json(self) -> dict[str, Any]:
        return {"lost": to_builtins(self.lost), "missing_hours": dict(self.hours)}

    def lines(self) -> Iterator[str]:
        """Yield the gaps as text lines."""
        for one in self.lost:
            yield f"lost {one.text}"
        for symbol, ranges in self.hours.items():
            yield f"missing hours {symbol}: {', '.join(ranges)}"
        if not self.lost and not self.hours:
            yield "no gaps: nothing was lost, and no market lacks an hour"


def missing_hours(hours: Mapping[str, set[int]]) -> dict[str, list[str]]:
    """Return each market's missing hours, between its first one and the newest one of any market.

    Args:
        hours: by symbol, the hours stored (start times, ms), at least one each.
    """
    end_ms = max((max(known) for known in hours.values()), default=0) + HOUR_MS
    found = {symbol: gap_ranges(known | {end_ms}, HOUR_MS) for symbol, known in sorted(hours.items())}
    return {symbol: ranges for symbol, ranges in found.items() if ranges}


def find_gaps(hdfs: WebHdfs, settings: Settings) -> Gaps:
    """Read the gaps from HDFS.

    Raises:
        StorageError: HDFS does not answer, or a file cannot be read.
    """
    hours = stored_times(hdfs, settings.hdfs.hourly_metrics, "hour_start")
    return Gaps(tuple(read_lost_ranges(hdfs, settings.hdfs)), missing_hours(hours))
