"""HDFS as the batch programs see it: waiting for it, its folders, and files that are replaced whole and atomically.

What is written lies under `_staging`, outside what readers scan, until one rename puts it in its place: a reader sees
the old file or the new one. Knows nothing of what stands in the files.
"""

import logging
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import stamina
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from batch.hdfs.lease import Locks
from config import Settings
from marketdata.errors import StorageError

SLOT = "_slot"
# At the start of a line, after "Caused by: " or after the word with which Spark repeats it.
_IO_FAILED = re.compile(r"\b(?:java\.(?:io|net)|java\.nio\.channels|org\.apache\.hadoop(?:\.\w+)+)\.\w*Exception\b.*")
_TOLD = 300  # characters of it
_log = logging.getLogger(__name__)


def java_text(error: BaseException) -> str:
    """What a Java exception says, with its causes; PySpark's own text of one it converted may leave them out."""
    return f"{error}\n{getattr(error, '_stackTrace', '')}"


def hdfs_failure(text: str, url: str) -> str | None:
    """A clear line of a Java exception that comes of HDFS; None where it does not.

    Hadoop tells of a NameNode or DataNode that went away in many ways, some of which name no file, host or reason
    (`java.io.EOFException` alone); what they share is that an I/O exception is among the causes.

    Args:
        text: what the exception says, its causes and stack trace included.
        url: `hdfs.url`.
    """
    lines = [line.strip() for line in text.splitlines()]
    causes = [match for line in lines if not line.startswith("at ") and (match := _IO_FAILED.search(line))]
    if not causes:
        return None
    return (
        f"hdfs.url: {url}: broke off while it was read or written ({causes[-1].group()[:_TOLD]}); nothing that was "
        "stored or published is lost: see that HDFS runs, then start this again"
    )


@contextmanager
def hdfs_failures_told(url: str) -> Iterator[None]:
    """Turn what Java throws where HDFS goes away in the middle into one clear line; while the JVM can still be asked.

    Raises:
        StorageError: HDFS went away.
    """
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        told = hdfs_failure(java_text(error), url)
        if told is None:
            raise
        raise StorageError(told) from error


class Store:
    """One HDFS root through Spark's JVM. Build it with `open_store`."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self._spark = spark
        jvm: Any = spark._jvm  # noqa: SLF001  Hadoop's file system has no Python name
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
        """Those of the files that are there."""
        return [name for name in names if self.exists(name)]

    def files(self, folder: str) -> list[str]:
        """All files below a folder, as paths from the file system's root; none where the folder is not there."""
        if not self.exists(folder):
            return []
        found = self.fs.listFiles(self.path(folder), True)  # noqa: FBT003
        names = []
        while found.hasNext():
            names.append(found.next().getPath().toUri().getPath())
        return sorted(names)

    def make_folders(self) -> None:
        own = self.settings
        for name in (own.raw_data, own.minute_candles, own.hourly_metrics, own.checkpoints, self.staging):
            self.fs.mkdirs(self.path(name))

    def probe(self) -> None:
        """Write and remove a small file: only a NameNode out of safe mode with a DataNode lets that pass."""
        self.fs.mkdirs(self.path(self.staging))
        path = self.path(f"{self.staging}/probe-{uuid.uuid4().hex}")
        stream = self.fs.create(path, True)  # noqa: FBT003
        stream.write(1)
        stream.close()
        self.fs.delete(path, False)  # noqa: FBT003

    def replace(self, source: str, target: str) -> None:
        """Put a staged file in its place, over what was there, in one step."""
        destination = self.path(target)
        self.fs.mkdirs(destination.getParent())
        self._context.rename(self.path(source), destination, self._overwrite)

    def stage(self, table: str, rows: DataFrame, *, slotted: bool) -> "Staged":
        """Write rows under `_staging`; where `slotted`, one file for each value of the column `_slot`."""
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

    def discard_stale(self, table: str) -> None:
        """Remove what an earlier writer of the table left half done. Only its lease holder may call this."""
        for status in self.fs.globStatus(self.path(f"{self.staging}/{table}-*")) or ():
            self.discard(status.getPath().toUri().getPath())


class Staged:
    """What `Store.stage` wrote: its folder, and its file of each slot."""

    def __init__(self, folder: str, files: Mapping[str, str]) -> None:
        self.folder = folder
        self.files = files


def open_store(spark: SparkSession, settings: Settings) -> Store:
    """Wait until HDFS takes writes, and make the product's folders.

    Raises:
        StorageError: it does not within `hdfs.wait_s`.
    """
    try:
        for attempt in stamina.retry_context(
            on=Py4JJavaError, attempts=None, timeout=settings.hdfs.wait_s, wait_initial=0.2, wait_max=1.0
        ):
            with attempt:
                if attempt.num == 2:  # noqa: PLR2004  the second try is the first wait
                    _log.info("waiting for HDFS at %s", settings.hdfs.url)
                store = Store(spark, settings)
                store.probe()
                store.make_folders()
                return store
    except Py4JJavaError as error:
        why = str(error.java_exception.toString()).splitlines()[0]
        msg = f"hdfs.url: {settings.hdfs.url}: takes no writes after {settings.hdfs.wait_s:g} s: {why}"
        raise StorageError(msg) from error
    raise AssertionError  # the loop returns or raises
