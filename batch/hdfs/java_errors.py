"""Translates Java exceptions that an HDFS failure causes into one clear line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from marketdata.errors import StorageError

# An exception class at the start of a line, after "Caused by: ", or after the prefix with which Spark repeats it.
_IO_EXCEPTION = re.compile(
    r"\b(?:java\.(?:io|net)|java\.nio\.channels|org\.apache\.hadoop(?:\.\w+)+)\.\w*Exception\b.*"
)
_MAX_CAUSE_LENGTH = 300  # characters


def java_message(error: BaseException) -> str:
    """Return a Java exception's text with its causes; the text of a converted PySpark exception may omit them."""
    return f"{error}\n{getattr(error, '_stackTrace', '')}"


def hdfs_failure(text: str, url: str) -> str | None:
    """Return one clear line for a Java exception that an HDFS failure caused, None for other exceptions.

    Hadoop reports a lost NameNode or DataNode in many forms, some without a file, host or reason (a bare
    `java.io.EOFException`). All of them have an I/O exception among their causes.

    Args:
        text: the exception's text with causes and stack trace.
        url: `hdfs.url`.
    """
    lines = [line.strip() for line in text.splitlines()]
    causes = [match for line in lines if not line.startswith("at ") and (match := _IO_EXCEPTION.search(line))]
    if not causes:
        return None
    return (
        f"hdfs.url: {url}: connection lost during a read or write ({causes[-1].group()[:_MAX_CAUSE_LENGTH]}); stored "
        "and published data is intact: check that HDFS is running, then restart the job"
    )


@contextmanager
def hdfs_failures_as_storage_errors(url: str) -> Iterator[None]:
    """Translate Java exceptions that an HDFS failure causes. Use it while the JVM is running.

    Raises:
        StorageError: HDFS failed during the `with` block.
    """
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        message = hdfs_failure(java_message(error), url)
        if message is None:
            raise
        raise StorageError(message) from error
