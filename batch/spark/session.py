"""Starts a SparkSession and ends its JVM.

The options are for small data on few cores, where start-up time matters more than peak throughput: the JVM uses only
its first-tier compiler and the serial garbage collector, and the settings limit the number of shuffle partitions.
"""

import hashlib
import logging
import platform
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyspark
from py4j.protocol import Py4JError
from pyspark import SparkContext
from pyspark.sql import SparkSession

from config import Settings
from config.paths import cache_dir, java_home, spark_jars_dir
from marketdata.errors import StackError

_LOG4J = Path(__file__).parent / "log4j2.properties"
_STOP_S = 3.0
_STACK = (
    "-Xss32m"  # Spark matches the error of an interrupted batch with a regular expression that recurses by character
)
_ARCHIVE_S = 60.0
_QUIET_JVM = (
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
)  # without it the JVM prints a line per class that it cannot archive
_log = logging.getLogger(__name__)


def _jars(settings: Settings) -> list[Path]:
    folder = spark_jars_dir(settings)
    jars = sorted(folder.glob("*.jar"))
    if not any(jar.name.startswith("spark-sql-kafka") for jar in jars):
        msg = f"{folder}: no spark-sql-kafka jar; run `python -m devstack jars` or set batch.jars_dir"
        raise StackError(msg)
    return jars


def class_archive(settings: Settings) -> Path:
    """Return the path of the JVM's class archive, which halves the start-up time (JDK 17 dynamic class data sharing).

    The name contains a digest of the versions that the archive depends on. A JVM ignores an archive that does not fit.
    """
    parts = [pyspark.__version__, platform.machine(), java_home(), *(jar.name for jar in _jars(settings))]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return cache_dir() / f"spark-{digest}.jsa"


def _class_sharing(archive: Path | None, dump: Path | None) -> list[str]:
    if dump is not None:
        return [f"-XX:ArchiveClassesAtExit={dump}", *_QUIET_JVM]
    if archive is not None and archive.is_file():
        return [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto", *_QUIET_JVM]
    return []


def _options(settings: Settings, dump: Path | None, scratch: Path) -> dict[str, str]:
    local = settings.batch.master.startswith("local")
    archive = class_archive(settings) if local else None
    java = [
        "-Duser.timezone=UTC",
        "-Djava.net.preferIPv4Stack=true",
        f"-Dlog4j2.configurationFile={_LOG4J.as_uri()}",
        f"-DHADOOP_USER_NAME={settings.hdfs.user}",
        f"-Djava.io.tmpdir={scratch}",
        "-XX:-UsePerfData",
        _STACK,
        *(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *_class_sharing(archive, dump)] if local else []),
    ]
    jars = _jars(settings)
    options = {
        "spark.driver.memory": settings.batch.driver_memory,
        "spark.driver.extraJavaOptions": " ".join(java),
        # extraClassPath instead of spark.jars: no copies at start, and the driver itself is a Kafka client.
        "spark.driver.extraClassPath": ":".join(map(str, jars)),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(settings.batch.shuffle_partitions),
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # `batch.hdfs.store` stages and renames files: no success marker and no rename by the committer are needed.
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
        "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2",
        "spark.hadoop.fs.defaultFS": settings.hdfs.url,
        "spark.hadoop.dfs.replication": str(settings.hdfs.replication),
        "spark.hadoop.ipc.client.connect.retry.interval": "200",
        # Avoids the metastore folder that Spark would create in the working directory.
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.maxMetadataStringLength": "100",
        "spark.sql.debug.maxToStringFields": "200",
    }
    if local:
        options |= {
            "spark.local.dir": str(scratch),
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.sql.adaptive.enabled": "false",
            # For a few thousand rows, compiling a stage takes longer than running it: measured on backfill and streams.
            "spark.sql.codegen.wholeStage": "false",
            "spark.default.parallelism": str(settings.batch.shuffle_partitions),
            "spark.sql.autoBroadcastJoinThreshold": "-1",
        }
    else:
        options["spark.jars"] = ",".join(map(str, jars))  # remote executors need the jars too
    return options


@contextmanager
def spark_session(settings: Settings, name: str, *, save_class_archive: bool = False) -> Iterator[SparkSession]:
    """Run a session during a `with` block; its JVM and temporary files are gone afterwards.

    Args:
        settings: master, memory, HDFS, jars.
        name: the job's name, for Spark and the log.
        save_class_archive: save a class archive for later starts if there is none; takes some seconds at the end.

    Raises:
        StackError: Spark's Kafka connector is missing from the jars folder.
    """
    # Removes block files and unpacked libraries even if the JVM has to be killed.
    with tempfile.TemporaryDirectory(prefix="bitcoin-spark-", ignore_cleanup_errors=True) as scratch:
        yield from _session(settings, name, Path(scratch), save_class_archive=save_class_archive)


def _session(settings: Settings, name: str, scratch: Path, *, save_class_archive: bool) -> Iterator[SparkSession]:
    began = time.monotonic()
    dump = _dump_path(settings) if save_class_archive else None
    builder = SparkSession.builder.master(settings.batch.master).appName(f"bitcoin-{name}")
    for key, value in _options(settings, dump, scratch).items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    if settings.batch.master.startswith("local"):
        spark.sparkContext.pythonExec = sys.executable  # the default, `python3`, may be one without the packages
    process = getattr(spark.sparkContext._gateway, "proc", None)  # noqa: SLF001  the JVM process has no public accessor
    _log.info("Spark session `%s` started in %.1f s", name, time.monotonic() - began)
    completed = False
    try:
        yield spark
        completed = True
    finally:
        code = _stop(spark, process, _ARCHIVE_S if dump is not None and completed else _STOP_S)
        if dump is not None:
            if completed and code == 0 and dump.is_file():
                dump.replace(class_archive(settings))
            dump.unlink(missing_ok=True)


def cancel_jobs(spark: SparkSession) -> None:
    """Cancel all running Spark jobs and silence Spark's log, which would report each in many lines."""
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    with suppress(Py4JError, OSError, AttributeError):  # the session can be ending at the same moment
        spark.sparkContext.setLogLevel("OFF")
        spark.sparkContext.cancelAllJobs()


def _dump_path(settings: Settings) -> Path | None:
    archive = class_archive(settings)
    if not settings.batch.master.startswith("local") or archive.is_file():
        return None
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning(
            "%s: cannot be created; no class archive is saved, later starts stay slow: %s", archive.parent, error
        )
        return None
    return archive.with_suffix(f".{uuid.uuid4().hex[:8]}.part")


def _stop(spark: SparkSession, process: "subprocess.Popen[bytes] | None", wait_s: float) -> int | None:
    """Stop Spark and wait for its JVM to end; return the JVM's exit code, or None if this process did not start it."""
    try:
        spark.stop()
    except (Py4JError, OSError) as error:  # the JVM may already be shutting down
        _log.debug("spark stop: %s", error)
    gateway = SparkContext._gateway  # noqa: SLF001
    if gateway is not None:
        gateway.shutdown()
    # Lets a later session of this process start a new JVM.
    SparkContext._gateway = SparkContext._jvm = None  # noqa: SLF001
    if process is None:
        return None
    if process.stdin is not None:
        process.stdin.close()  # PySpark's gateway exits when its standard input is closed
    try:
        return int(process.wait(wait_s))
    except subprocess.TimeoutExpired:
        process.kill()
        return int(process.wait())
