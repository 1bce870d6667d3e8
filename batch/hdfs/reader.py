"""What is stored, read without Spark: WebHDFS and pyarrow, as any reader of the tables does it."""

import io
import logging
from collections.abc import Iterable, Sequence

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import requests
import stamina
from hdfs import InsecureClient
from hdfs.util import HdfsError
from requests.exceptions import RequestException

from config.sections import HdfsSettings
from marketdata.errors import StorageError
from marketdata.parquet import read_parquet

_READ_ERRORS = (HdfsError, RequestException, pa.ArrowException, OSError)
_READ_TRIES = 6
_log = logging.getLogger(__name__)


class Reader:
    """Reads whole Parquet files over WebHDFS; writes one only where nobody reads tables, under `_staging`."""

    def __init__(self, settings: HdfsSettings) -> None:
        self._settings = settings
        session = requests.Session()
        session.trust_env = False  # loopback and cluster addresses must not go through a proxy of the environment
        self._client = InsecureClient(settings.webhdfs, user=settings.user, timeout=30, session=session)

    def wait(self) -> None:
        """Wait until the NameNode answers.

        Raises:
            StorageError: it does not within `hdfs.wait_s`.
        """
        url = f"{self._settings.webhdfs}/webhdfs/v1/?op=GETFILESTATUS&user.name={self._settings.user}"
        try:
            for attempt in stamina.retry_context(
                on=httpx.HTTPError, attempts=None, timeout=self._settings.wait_s, wait_initial=0.2, wait_max=1.0
            ):
                with attempt:
                    if attempt.num == 2:  # noqa: PLR2004  the second try is the first wait
                        _log.info("waiting for HDFS at %s", self._settings.webhdfs)
                    httpx.get(url, timeout=5.0, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            msg = f"hdfs.webhdfs: {self._settings.webhdfs}: no answer after {self._settings.wait_s:g} s: {error}"
            raise StorageError(msg) from error

    def files(self, folder: str) -> list[str]:
        """The Parquet files below a folder, none where it is not there."""
        try:
            found = self._client.walk(folder)
            return sorted(
                f"{parent}/{name}" for parent, _, names in found for name in names if name.endswith(".parquet")
            )
        except HdfsError as error:
            if "does not exist" in str(error) or "FileNotFound" in str(error):
                return []
            msg = f"{folder}: cannot be listed: {error}"
            raise StorageError(msg) from error

    def table(self, file: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One file's rows.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            # The blocks of a file that is replaced vanish under its reader: it is read again, whole.
            for attempt in stamina.retry_context(on=_READ_ERRORS, attempts=_READ_TRIES, wait_initial=0.05, wait_max=1):
                with attempt:
                    with self._client.read(file) as stream:
                        content = stream.read()
                    return read_parquet(content, columns)
        except _READ_ERRORS as error:
            msg = f"{file}: cannot be read: {error}"
            raise StorageError(msg) from error
        raise AssertionError  # the loop returns or raises

    def write(self, file: str, rows: pa.Table) -> None:
        """Write rows as a new file.

        Raises:
            StorageError: it cannot be written.
        """
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="snappy")
        try:
            self._client.write(file, data=buffer.getvalue(), overwrite=False)
        except (HdfsError, RequestException) as error:
            msg = f"{file}: cannot be written: {error}"
            raise StorageError(msg) from error

    def times_ms(self, files: Iterable[str], column: str) -> dict[str, set[int]]:
        """The times (ms) of each symbol in some files."""
        found: dict[str, set[int]] = {}
        for file in files:
            rows = self.table(file, ["symbol", column])
            at = rows[column].cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64()).to_pylist()
            for symbol, ms in zip(rows["symbol"].to_pylist(), at, strict=True):
                found.setdefault(symbol, set()).add(ms)
        return found
