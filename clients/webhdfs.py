"""Whole files on HDFS over WebHDFS, without a JVM: a read returns one version of a file, and a write is atomic.

A file is written to a staging folder and renamed into place, so that a reader gets the old version or the new one.
"""

import posixpath
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from logging import getLogger
from typing import Any, TypeVar

import pyarrow as pa
import requests
import stamina
from hdfs import InsecureClient
from hdfs.util import HdfsError
from urllib3.exceptions import HTTPError

from config.sections import HdfsSettings
from marketdata.errors import StorageError
from marketdata.parquet import read_parquet

T = TypeVar("T")

CSRF_HEADER = "X-XSRF-HEADER"  # Hadoop's name, core-default.xml; any value
_READ_ATTEMPTS = 6
_PARALLEL_READS = 8
_log = getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileState:
    """Identifies one version of a file: equal only while the file is unchanged."""

    path: str
    mtime_ms: int
    length: int


class TornReadError(Exception):
    """The file was replaced during a read; the read is retried."""


# urllib3's errors reach the caller as they are when the connection breaks inside a body that is read as a stream.
_ERRORS = (requests.RequestException, HTTPError, HdfsError, TornReadError)


def connect(settings: HdfsSettings, timeout_s: float = 30.0) -> InsecureClient:
    """Return the package's client, which sends the header that a NameNode with `dfs.webhdfs.rest-csrf.enabled` wants.

    Args:
        settings: address and user.
        timeout_s: of one request: to connect, and between two packets of the response.
    """
    session = requests.Session()
    session.trust_env = False  # loopback and cluster addresses must not go through a proxy of the environment
    session.headers[CSRF_HEADER] = "bitcoin-data-ia"
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=_PARALLEL_READS))
    return InsecureClient(settings.webhdfs, user=settings.user, timeout=timeout_s, session=session)


class WebHdfs:
    """A WebHDFS client for whole files. Blocking; listing and reading are retried, writing is not.

    Args:
        settings: address, user and root.
        timeout_s: of one request: to connect, and between two packets of the response.
        attempts: how often listing or reading is tried.
    """

    def __init__(self, settings: HdfsSettings, timeout_s: float = 30.0, attempts: int = _READ_ATTEMPTS) -> None:
        self._client = connect(settings, timeout_s)
        self._settings = settings
        self._attempts = attempts
        self._staging = f"{settings.root}/_staging/webhdfs"

    def wait(self) -> None:
        """Return as soon as HDFS answers.

        Raises:
            StorageError: it does not answer within `hdfs.wait_s`.
        """
        address, wait_s = self._settings.webhdfs, self._settings.wait_s
        try:
            for attempt in stamina.retry_context(
                on=_ERRORS, attempts=None, timeout=wait_s, wait_initial=0.2, wait_max=1.0
            ):
                with attempt:
                    if attempt.num == 2:  # noqa: PLR2004  once, when the first attempt has failed
                        _log.info("waiting for HDFS at %s", address)
                    self._client.status("/")
        except _ERRORS as error:
            raise StorageError(f"hdfs.webhdfs: {address}: HDFS did not answer within {wait_s:g} s: {error}") from error

    def state(self, path: str) -> FileState | None:
        """The file's version; None if the file does not exist."""
        found: dict[str, Any] | None = self._retried(path, "read", lambda: self._client.status(path, strict=False))
        return None if found is None else _file_state(path, found)

    def exists(self, path: str) -> bool:
        return self.state(path) is not None

    def files(self, folder: str, suffix: str = "", *, recursive: bool = False) -> list[FileState]:
        """The files of a folder, sorted by path, without names that start with `.` or `_`.

        Args:
            folder: empty if it does not exist.
            suffix: only names that end with it.
            recursive: the files of its folders too.
        """
        found = []
        for name, state in self._entries(folder):
            path = posixpath.join(folder, name)
            if state["type"] == "FILE" and name.endswith(suffix):
                found.append(_file_state(path, state))
            elif state["type"] == "DIRECTORY" and recursive:
                found += self.files(path, suffix, recursive=True)
        return sorted(found, key=lambda file: file.path)

    def folders(self, folder: str) -> list[str]:
        """The names of a folder's folders, sorted; empty if it does not exist. Names as in `files`."""
        return [name for name, state in self._entries(folder) if state["type"] == "DIRECTORY"]

    def _entries(self, folder: str) -> list[tuple[str, dict[str, Any]]]:
        def entries() -> list[tuple[str, dict[str, Any]]]:
            try:
                found = self._client.list(folder, status=True)
            except HdfsError as error:
                if error.exception == "FileNotFoundException":
                    return []
                raise
            return sorted((name, state) for name, state in found if name[:1] not in {".", "_"})

        return self._retried(folder, "listed", entries)

    def read(self, path: str) -> bytes:
        """A file's bytes, all of one version.

        Raises:
            StorageError: the file does not exist, or could not be read whole in several attempts.
        """

        def read() -> bytes:
            before = self._client.status(path)
            with self._client.read(path) as reader:
                data: bytes = reader.read()
            after = self._client.status(path)
            if len(data) != before["length"] or before["modificationTime"] != after["modificationTime"]:
                raise TornReadError(f"replaced during each of {self._attempts} reads")
            return data

        return self._retried(path, "read", read)

    def read_many(self, paths: Sequence[str]) -> list[bytes]:
        """The contents of several files, read in parallel, in the given order."""
        if len(paths) < 2:  # noqa: PLR2004  one file needs no threads
            return [self.read(path) for path in paths]
        with ThreadPoolExecutor(min(_PARALLEL_READS, len(paths))) as pool:
            return list(pool.map(self.read, paths))

    def read_table(self, path: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a Parquet file, with all columns or some.

        Raises:
            StorageError: as in `read`, or the file is not Parquet.
        """
        try:
            return read_parquet(self.read(path), columns)
        except pa.ArrowException as error:
            raise self._error(path, "read", error) from error

    def write(self, path: str, data: bytes, *, overwrite: bool = True) -> None:
        """Put a whole file in place at once.

        Raises:
            StorageError: HDFS refused; or the file exists and `overwrite` is False.
        """
        # A unique staging name: of two concurrent writers of a file, each puts its own bytes in place.
        staged = f"{self._staging}/{path.strip('/').replace('/', '~')}.{uuid.uuid4().hex}"
        try:
            self._client.makedirs(posixpath.dirname(path))
            self._client.write(staged, data, overwrite=True, replication=self._settings.replication)
            # The package's public rename refuses an existing target; WebHDFS itself can replace it atomically.
            options = "OVERWRITE" if overwrite else "NONE"
            self._client._rename(staged, destination=path, renameoptions=options)  # noqa: SLF001
        except _ERRORS as error:
            raise self._error(path, "written", error) from error

    def _retried(self, path: str, verb: str, action: Callable[[], T]) -> T:
        """Run an action that changes nothing, and retry it: the blocks of a replaced file vanish during a read."""
        try:
            for attempt in stamina.retry_context(
                on=_ERRORS,
                attempts=self._attempts,
                wait_initial=0.05,
                wait_max=1.0,
                timeout=self._settings.wait_s,
            ):
                with attempt:
                    return action()
        except _ERRORS as error:
            raise self._error(path, verb, error) from error
        raise AssertionError  # the loop returns or raises

    def _error(self, path: str, verb: str, error: Exception) -> StorageError:
        return StorageError(f"hdfs.webhdfs: {self._settings.webhdfs}: {path} cannot be {verb}: {error}")


def _file_state(path: str, status: dict[str, Any]) -> FileState:
    return FileState(path, int(status["modificationTime"]), int(status["length"]))
