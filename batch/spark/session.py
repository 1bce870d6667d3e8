"""The only place that builds a SparkSession, and ends its JVM.

Everything here is small data on few cores: start-up time counts more than peak speed, so the JVM stays with its first
compiler and the serial collector, and nothing is shuffled wider than the settings say.
"""

import hashlib
import logging
import platform
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
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
_DUMP_S = 60.0
_QUIET_JVM = ("-Xlog:disable", "-Xlog:all=error:stderr")  # else a line for each class that cannot be archived
_log = logging.getLogger(__name__)


def _jars(settings: Settings) -> list[Path]:
    folder = spark_jars_dir(settings)
    jars = sorted(folder.glob("*.jar"))
    if not any(jar.name.startswith("spark-sql-kafka") for jar in jars):
        msg = (
            f"{folder}: no spark-sql-kafka jar; expected those that `python -m devstack jars` fetches (batch.jars_dir)"
        )
        raise StackError(msg)
    return jars


def class_archive(settings: Settings) -> Path:
    """Where the JVM keeps the classes that a job loads, ready to map: a start takes about half the time with it.

    Named by what it depends on; a JVM that it does not fit ignores it (JDK 17, class data sharing, dynamic archives).
    """
    parts = [pyspark.__version__, platform.machine(), java_home(), *(jar.name for jar in _jars(settings))]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return cache_dir() / f"spark-{digest}.jsa"


def _sharing(archive: Path | None, dump: Path | None) -> list[str]:
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
        *(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *_sharing(archive, dump)] if local else []),
    ]
    jars = _jars(settings)
    options = {
        "spark.driver.memory": settings.batch.driver_memory,
        "spark.driver.extraJavaOptions": " ".join(java),
        # The class path, not spark.jars: nothing is copied at start, and the driver itself talks to Kafka.
        "spark.driver.extraClassPath": ":".join(map(str, jars)),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(settings.batch.shuffle_partitions),
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # Files are staged under a name of their own and renamed by us: no success marker, no rename by a committer.
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
        "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2",
        "spark.hadoop.fs.defaultFS": settings.hdfs.url,
        "spark.hadoop.dfs.replication": str(settings.hdfs.replication),
        "spark.hadoop.ipc.client.connect.retry.interval": "200",
        # A state folder of its own in the working folder would be made where the program happens to stand.
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
            # Compiling a stage costs more than a few thousand rows take without: measured on backfill and streams.
            "spark.sql.codegen.wholeStage": "false",
            "spark.default.parallelism": str(settings.batch.shuffle_partitions),
            "spark.sql.autoBroadcastJoinThreshold": "-1",
        }
    else:
        options["spark.jars"] = ",".join(map(str, jars))  # executors elsewhere need them too
    return options


@contextmanager
def spark_session(settings: Settings, name: str, *, archives: bool = False) -> Iterator[SparkSession]:
    """A session for the length of a `with` block; at its end no JVM is left, and no file in the temporary folder.

    Args:
        settings: master, memory, HDFS, jars.
        name: the job, for Spark's own names and the log.
        archives: leave a class archive for later starts where there is none; costs some seconds at the end.

    Raises:
        StackError: Spark's Kafka connector is not where the settings say.
    """
    # Blocks, unpacked libraries: what a JVM that must be killed leaves is gone too.
    with tempfile.TemporaryDirectory(prefix="bitcoin-spark-", ignore_cleanup_errors=True) as scratch:
        yield from _session(settings, name, Path(scratch), archives=archives)


def _session(settings: Settings, name: str, scratch: Path, *, archives: bool) -> Iterator[SparkSession]:
    began = time.monotonic()
    dump = _dump_path(settings) if archives else None
    builder = SparkSession.builder.master(settings.batch.master).appName(f"bitcoin-{name}")
    for key, value in _options(settings, dump, scratch).items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    process = getattr(spark.sparkContext._gateway, "proc", None)  # noqa: SLF001  the JVM's handle has no public name
    _log.info("spark session of %s up in %.1f s", name, time.monotonic() - began)
    completed = False
    try:
        yield spark
        completed = True
    finally:
        code = _end(spark, process, _DUMP_S if dump is not None and completed else _STOP_S)
        if dump is not None:
            if completed and code == 0 and dump.is_file():
                dump.replace(class_archive(settings))
            dump.unlink(missing_ok=True)


def cut_off(spark: SparkSession) -> None:
    """Cancel what Spark is at, without the pages that it has to say about that."""
    spark.sparkContext.setLogLevel("OFF")
    spark.sparkContext.cancelAllJobs()


def _dump_path(settings: Settings) -> Path | None:
    archive = class_archive(settings)
    if not settings.batch.master.startswith("local") or archive.is_file():
        return None
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("%s: cannot be made, starts stay slow: %s", archive.parent, error)
        return None
    return archive.with_suffix(f".{uuid.uuid4().hex[:8]}.part")


def _end(spark: SparkSession, process: "subprocess.Popen[bytes] | None", wait_s: float) -> int | None:
    """Stop Spark and wait for its JVM to end; gives its exit code, None where it was not ours."""
    try:
        spark.stop()
    except (Py4JError, OSError) as error:  # the JVM may have been told to end before us
        _log.debug("spark stop: %s", error)
    gateway = SparkContext._gateway  # noqa: SLF001
    if gateway is not None:
        gateway.shutdown()
    # A later session of this process starts a JVM of its own.
    SparkContext._gateway = SparkContext._jvm = None  # noqa: SLF001
    if process is None:
        return None
    if process.stdin is not None:
        process.stdin.close()  # PySpark's gateway ends when its standard input does
    try:
        return int(process.wait(wait_s))
    except subprocess.TimeoutExpired:
        process.kill()
        return int(process.wait())
