"""Ranges of Kafka records that `raw` skipped knowingly, recorded next to the tables.

The file `lost_ranges.jsonl` in `hdfs.root` has one JSON object per line. Only the holder of raw_data's lease writes it.
"""

from collections.abc import Iterable

import msgspec

from clients.webhdfs import WebHdfs
from config.sections import HdfsSettings
from marketdata.errors import StorageError


class LostRange(msgspec.Struct, frozen=True, kw_only=True):
    """Records that are no longer on any topic, and in no table.

    Attributes:
        topic, partition: of the records.
        from_offset: of the first one.
        to_offset: the offset after the last one; None if it is unknown, because the topic was recreated.
        recorded_at: when `raw` skipped them, event time, RFC 3339.
    """

    topic: str
    partition: int
    from_offset: int
    to_offset: int | None
    recorded_at: str

    @property
    def text(self) -> str:
        where = f"{self.topic}, partition {self.partition}"
        if self.to_offset is None:
            return f"{where}: records from offset {self.from_offset} of a recreated topic, skipped {self.recorded_at}"
        count = self.to_offset - self.from_offset
        return f"{where}: {count} records, offsets {self.from_offset} to {self.to_offset}, skipped {self.recorded_at}"


def file_of(hdfs: HdfsSettings) -> str:
    """Return the path of the file."""
    return f"{hdfs.root}/lost_ranges.jsonl"


def read_lost_ranges(client: WebHdfs, hdfs: HdfsSettings) -> list[LostRange]:
    """Return the recorded ranges, oldest first.

    Raises:
        StorageError: the file cannot be read, or a line of it is not a range.
    """
    path = file_of(hdfs)
    if not client.exists(path):
        return []
    found = []
    for number, line in enumerate(client.read(path).splitlines(), 1):
        try:
            found.append(msgspec.json.decode(line, type=LostRange))
        except msgspec.MsgspecError as error:
            raise StorageError(f"{path}: line {number}: expected a lost range: {error}") from error
    return found


def record_lost_ranges(client: WebHdfs, hdfs: HdfsSettings, ranges: Iterable[LostRange]) -> None:
    """Add ranges to the file; those that it contains are not added again.

    Ranges of deleted records are compared without `recorded_at`. A recreated topic has the same offsets again, so the
    same range of it, recorded at another time, is another loss.

    Raises:
        StorageError: HDFS refused.
    """
    known = {_identity(one): one for one in read_lost_ranges(client, hdfs)}
    for one in ranges:
        known.setdefault(_identity(one), one)
    client.write(file_of(hdfs), b"".join(msgspec.json.encode(one) + b"\n" for one in known.values()))


def _identity(lost: LostRange) -> tuple[str, int, int, int | str]:
    return lost.topic, lost.partition, lost.from_offset, lost.recorded_at if lost.to_offset is None else lost.to_offset
