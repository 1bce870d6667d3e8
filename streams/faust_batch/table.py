"""Faust's table with a changelog that is sent in record batches.

Names with an underscore belong to Faust (see `streams.faust_batch.driver`).
"""

import logging
import shutil
from pathlib import Path
from typing import Any

from aiokafka.structs import RecordMetadata
from faust.tables import Table

KEPT_ASIDE = 3
"""Local copies of a partition that are kept after they were set aside; the oldest one is deleted."""


class BatchTable(Table):  # type: ignore[type-arg]
    """A table of bytes that collects its changelog records until `flush_changelog`."""

    logger = logging.getLogger("faust.batching")  # Faust's messages about this service appear under Faust's name

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pending: dict[int, dict[bytes, bytes | None]] = {}

    def on_key_set(self, key: bytes, value: bytes) -> None:
        self._pending.setdefault(self._partition(key), {})[key] = value

    def on_key_del(self, key: bytes) -> None:
        self._pending.setdefault(self._partition(key), {})[key] = None

    def _partition(self, key: bytes) -> int:
        partition = self.partition_for_key(key)
        if partition is None:
            raise TypeError(f"table {self.name}: use_partitioner is not supported")
        return partition

    async def flush_changelog(self) -> None:
        """Send the changes since the last call; agents call it once per batch, before they declare it handled."""
        pending, self._pending = self._pending, {}
        for partition, values in pending.items():
            records = ((key, value, ()) for key, value in values.items())
            producer: Any = self.app.producer
            await producer.send_many(self.changelog_topic_name, partition, records, self._sent)

    @property
    def in_memory(self) -> bool:
        """Whether the local copy has no files."""
        return not hasattr(self.data, "partition_path")

    def set_aside(self, partition: int) -> str:
        """Rename the files of a partition's local copy; in memory, clear the whole table. Return what was done."""
        store: Any = self.data
        if self.in_memory:
            store.data.clear()
            return "cleared the table in memory"
        database = store._dbs.pop(partition, None)  # noqa: SLF001
        if database is not None:
            database.close()
        return f"set aside as {rename_aside(store.partition_path(partition))}"

    def _sent(self, metadata: RecordMetadata, count: int) -> None:
        # metadata.offset is that of the record batch's first record
        self.data.set_persisted_offset(metadata.topic_partition, metadata.offset + count - 1)


def rename_aside(path: Path) -> Path:
    """Rename a folder to PATH.aside-1; earlier ones become -2 and so on, up to `KEPT_ASIDE`. Return the new path."""
    names = [path.with_name(f"{path.name}.aside-{number}") for number in range(1, KEPT_ASIDE + 1)]
    if names[-1].exists():
        shutil.rmtree(names[-1])
    for older, newer in zip(reversed(names), reversed([path, *names[:-1]]), strict=True):
        if newer.exists():
            newer.rename(older)
    return names[0]
