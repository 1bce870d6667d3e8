"""Java exceptions caused by an HDFS failure become one clear line; other exceptions are not changed."""

import pytest
from pyspark.errors import PySparkException

from batch.hdfs.java_errors import hdfs_failure, hdfs_failures_as_storage_errors
from marketdata.errors import StorageError

URL = "hdfs://127.0.0.1:9000"
BARE = """An error occurred while calling o45.parquet.
: java.io.EOFException
\tat java.base/java.io.DataInputStream.readByte(DataInputStream.java:272)
"""
NESTED = """An error occurred while calling o45.parquet.
: org.apache.spark.SparkException: Job aborted due to stage failure
\tat org.apache.spark.sql.errors.QueryExecutionErrors$.jobAborted(QueryExecutionErrors.scala:1)
Caused by: java.net.ConnectException: Call From here to 127.0.0.1:9000 failed: Connection refused
\tat org.apache.hadoop.net.NetUtils.wrapException(NetUtils.java:837)
Caused by: java.net.ConnectException: Connection refused
\t... 5 more
"""
OTHER = """An error occurred while calling o45.parquet.
: java.lang.ArithmeticException: divide by zero
\tat org.apache.hadoop.ipc.RemoteException.instantiateException(RemoteException.java:110)
"""


@pytest.mark.parametrize(
    ("text", "cause"), [(BARE, "java.io.EOFException"), (NESTED, "java.net.ConnectException: Connection refused")]
)
def test_an_hdfs_failure_is_one_clear_line(text: str, cause: str) -> None:
    with pytest.raises(StorageError) as raised, hdfs_failures_as_storage_errors(URL):
        raise PySparkException(text)
    line = str(raised.value)
    assert line.startswith(f"hdfs.url: {URL}: connection lost during a read or write ({cause})")
    assert "restart the job" in line
    assert "\n" not in line


def test_causes_missing_from_pysparks_text_are_found() -> None:
    error = PySparkException("[STREAM_FAILED] Query terminated with exception: All datanodes are bad. Aborting...")
    error._stackTrace = "Caused by: java.io.IOException: All datanodes are bad. Aborting..."  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="All datanodes are bad"), hdfs_failures_as_storage_errors(URL):
        raise error


def test_other_exceptions_are_not_translated() -> None:
    assert hdfs_failure(OTHER, URL) is None
    with pytest.raises(PySparkException), hdfs_failures_as_storage_errors(URL):
        raise PySparkException(OTHER)
