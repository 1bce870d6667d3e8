"""What Java throws where HDFS goes away is told as one line; what has other causes is left as it is."""

import pytest
from pyspark.errors import PySparkException

from batch.hdfs.store import hdfs_failure, hdfs_failures_told
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
def test_hdfs_that_went_away_is_one_clear_line(text: str, cause: str) -> None:
    with pytest.raises(StorageError) as told, hdfs_failures_told(URL):
        raise PySparkException(text)
    line = str(told.value)
    assert line.startswith(f"hdfs.url: {URL}: broke off while it was read or written ({cause})")
    assert "start this again" in line
    assert "\n" not in line


def test_causes_that_pyspark_leaves_out_of_its_text_are_seen() -> None:
    error = PySparkException("[STREAM_FAILED] Query terminated with exception: All datanodes are bad. Aborting...")
    error._stackTrace = "Caused by: java.io.IOException: All datanodes are bad. Aborting..."  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="All datanodes are bad"), hdfs_failures_told(URL):
        raise error


def test_another_cause_stays_what_it_is() -> None:
    assert hdfs_failure(OTHER, URL) is None
    with pytest.raises(PySparkException), hdfs_failures_told(URL):
        raise PySparkException(OTHER)
