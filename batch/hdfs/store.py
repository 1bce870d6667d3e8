"""HDFS access through Spark's JVM: waiting for HDFS, folders, and atomic replacement of files.

New files are written under `_staging`, which readers do not scan, and moved to their target by one rename. A reader
sees either the old file or the new one.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import stamina
from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession

from batch.hdfs.lease import Locks
from config import Settings
from marketdata.errors import StorageError

SLOT = "_slot"
_KEPT_ASIDE = 3
_log = logging.getLogger(__name__)


class Store:
    """One HDFS root, accessed through Spark's JVM. Create it with `open_store`."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self._spark = spark
        jvm: Any = spark._jvm  # noqa: SLF001  Hadoop's file system has no Python API
        self._hadoop = jvm.org.apache.hadoop.fs
        conf = spark._jsparkSession.sessionState().newHadoopConf()  # noqa: SLF001
        root = self._hadoop.Path(settings.hdfs.root)
        self.fs: Any = root.getFileSystem(conf)
        self._context = self._hadoop.FileContext.getFileContext(self.fs.getUri(), conf)
        rename = self._hadoop.Options.Rename
        gateway: Any = spark.sparkContext._gateway  # noqa: SLF001
        self._overwrite = gateway.new_array(rename, 1)
        self._overwrite[0] = rename.OVERWRITE
        self.settings = settings.hdfs
        self.staging = f"{settings.hdfs.root}/_staging"
        self.locks = Locks(jvm, self.fs, f"{settings.hdfs.root}/_locks")

    def path(self, name: str) -> Any:
        return self._hadoop.Path(name)

    def exists(self, name: str) -> bool:
        return bool(self.fs.exists(self.path(name)))

    def existing(self, names: Iterable[str]) -> list[str]:
        """Return the files that exist."""
        return [name for name in names if self.exists(name)]

    def files(self, folder: str) -> list[str]:
        """Return all files below a folder as absolute paths, sorted; empty if the folder does not exist."""
        if not self.exists(folder):
            return []
        entries = self.fs.listFiles(self.path(folder), True)  # noqa: FBT003
        names = []
        while entries.hasNext():
            names.append(entries.next().getPath().toUri().getPath())
        return sorted(names)

    def make_folders(self) -> None:
        hdfs = self.settings
        for name in (hdfs.raw_data, hdfs.minute_candles, hdfs.hourly_metrics, hdfs.checkpoints, self.staging):
            self.fs.mkdirs(self.path(name))

    def probe(self) -> None:
        """Write and delete a small file; this succeeds once the NameNode has left safe mode and has a DataNode."""
        self.fs.mkdirs(self.path(self.staging))
        path = self.path(f"{self.staging}/probe-{uuid.uuid4().hex}")
        stream = self.fs.create(path, True)  # noqa: FBT003
        stream.write(1)
        stream.close()
        self.fs.delete(path, False)  # noqa: FBT003

    def replace(self, source: str, target: str) -> None:
        """Move a staged file to its target, replacing an existing file atomically."""
        destination = self.path(target)
        self.fs.mkdirs(destination.getParent())
        self._context.rename(self.path(source), destination, self._overwrite)

    def stage(self, table: str, rows: DataFrame, *, slotted: bool) -> "Staged":
        """Write rows under `_staging`: one file, or with `slotted` one file per value of the column `_slot`.

        Raises:
            StorageError: Spark wrote two files for one slot.
        """
        folder = f"{self.staging}/{table}-{uuid.uuid4().hex}"
        writer = rows.write.mode("errorifexists")
        (writer.partitionBy(SLOT) if slotted else writer).parquet(folder)
        files: dict[str, str] = {}
        for name in self.files(folder):
            if not name.endswith(".parquet"):
                continue
            parent = name.rsplit("/", 2)[1]
            slot = parent.removeprefix(f"{SLOT}=") if slotted else ""
            if slot in files:
                msg = f"{folder}: two files for slot {slot!r}; expected one"
                raise StorageError(msg)
            files[slot] = name
        return Staged(folder, files)

    def discard(self, folder: str) -> None:
        self.fs.delete(self.path(folder), True)  # noqa: FBT003

    def set_aside(self, folder: str) -> str:
        """Rename a folder to FOLDER.aside-1, earlier ones to -2 and so on; the oldest is deleted. Return the new path.

        Raises:
            StorageError: HDFS refused.
        """
        names = [f"{folder}.aside-{number}" for number in range(1, _KEPT_ASIDE + 1)]
        self.discard(names[-1])
        for older, newer in zip(reversed(names), reversed([folder, *names[:-1]]), strict=True):
            if self.exists(newer) and not self.fs.rename(self.path(newer), self.path(older)):
                raise StorageError(f"{newer}: cannot be renamed to {older}")
        return names[0]

    def discard_stale(self, table: str) -> None:
        """Delete staged files that an earlier writer of the table left. The caller must hold the table's lease."""
        for status in self.fs.globStatus(self.path(f"{self.staging}/{table}-*")) or ():
            self.discard(status.getPath().toUri().getPath())


class Staged:
    """Result of `Store.stage`: the folder, and the file of each slot (slot `""` if not slotted)."""

    def __init__(self, folder: str, files: Mapping[str, str]) -> None:
        self.folder = folder
        self.files = files


def open_store(spark: SparkSession, settings: Settings, stopped: Callable[[], bool] = lambda: False) -> Store:
    """Wait until HDFS accepts writes, and create the folders.

    Args:
        spark: the session.
        settings: address and time limit.
        stopped: polled while waiting; True ends the wait.

    Raises:
        StorageError: HDFS does not accept writes within `hdfs.wait_s`, or `stopped` returned True.
    """
    try:
        for attempt in stamina.retry_context(
            on=lambda error: isinstance(error, Py4JJavaError) and not stopped(),
            attempts=None,
            timeout=settings.hdfs.wait_s,
            wait_initial=0.2,
            wait_max=1.0,
        ):
            with attempt:
                if attempt.num == 2:  # noqa: PLR2004  the second attempt is the first wait
                    _log.info("waiting for HDFS at %s", settings.hdfs.url)
                store = Store(spark, settings)
                store.probe()
                store.make_folders()
                return store
    except Py4JJavaError as error:
        cause = str(error.java_exception.toString()).splitlines()[0]
        msg = f"hdfs.url: {settings.hdfs.url}: no writes accepted after {settings.hdfs.wait_s:g} s: {cause}"
        raise StorageError(msg) from error
    raise AssertionError  # the loop returns or raises
