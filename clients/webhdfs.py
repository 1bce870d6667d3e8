"""Files on HDFS over WebHDFS, without a JVM: whole-file reads that are never torn, and atomic writes.

A file is written under a staging folder and renamed into place, so a reader sees the old file or the new one. Imports
no Keras, and nothing of Kafka.
"""

import posixpath
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
import stamina
from hdfs import InsecureClient
from hdfs.util import HdfsError

from config.sections import HdfsSettings
from marketdata.errors import StorageError

T = TypeVar("T")

READ_ATTEMPTS = 6
READERS = 8


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells one version of a file from another."""

    path: str
    mtime_ms: int
    length: int


class TornReadError(Exception):
    """The file was replaced while it was read; the read is made again, whole."""


class Storage:
    """A WebHDFS client for whole files.

    Args:
        settings: address, user and root.
        timeout_s: for one request.
    """

    def __init__(self, settings: HdfsSettings, timeout_s: float = 10.0) -> None:
        session = requests.Session()
        session.trust_env = False  # loopback and cluster addresses must not go through a proxy of the environment
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=READERS))
        self._client = InsecureClient(settings.webhdfs, user=settings.user, timeout=timeout_s, session=session)
        self._settings = settings
        self._staging = f"{settings.root}/_staging/forecasting"

    def wait(self) -> None:
        """Return as soon as HDFS answers.

        Raises:
            StorageError: it does not within `hdfs.wait_s`.
        """
        try:
            for attempt in stamina.retry_context(
                on=(requests.RequestException, HdfsError),
                attempts=None,
                timeout=self._settings.wait_s,
                wait_initial=0.2,
                wait_max=2.0,
            ):
                with attempt:
                    self._client.status("/")
        except (requests.RequestException, HdfsError) as error:
            msg = f"{self._settings.webhdfs}: HDFS did not answer within {self._settings.wait_s:g} s: {error}"
            raise StorageError(msg) from error

    def _call(self, what: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except (requests.RequestException, HdfsError) as error:
            raise StorageError(f"{what}: {error}") from error

    def state(self, path: str) -> FileState | None:
        """The file's version, None where there is no such file."""
        found: dict[str, Any] | None = self._call(path, lambda: self._client.status(path, strict=False))
        return None if found is None else FileState(path, int(found["modificationTime"]), int(found["length"]))

    def files(self, folder: str, suffix: str = "") -> list[FileState]:
        """The visible files of a folder, by name; empty where the folder does not exist."""
        return [
            FileState(posixpath.join(folder, name), int(state["modificationTime"]), int(state["length"]))
            for name, state in self._entries(folder)
            if state["type"] == "FILE" and name.endswith(suffix) and not name.startswith((".", "_"))
        ]

    def folders(self, folder: str) -> list[str]:
        """The names of a folder's folders, sorted; empty where it does not exist."""
        return [n for n, state in self._entries(folder) if state["type"] == "DIRECTORY" and n[0] not in "._"]

    def _entries(self, folder: str) -> list[tuple[str, dict[str, Any]]]:
        def entries() -> list[tuple[str, dict[str, Any]]]:
            if self._client.status(folder, strict=False) is None:
                return []
            return sorted(self._client.list(folder, status=True))

        return self._call(folder, entries)

    def read(self, path: str) -> bytes:
        """A file's bytes, all of one version.

        Raises:
            StorageError: it does not exist, or could not be read whole in several attempts.
        """

        def once() -> bytes:
            before = self._client.status(path)
            with self._client.read(path) as reader:
                data: bytes = reader.read()
            after = self._client.status(path)
            if len(data) != before["length"] or before["modificationTime"] != after["modificationTime"]:
                raise TornReadError(path)
            return data

        try:
            # A replaced file's blocks vanish under a reader (HdfsError, a cut connection), or its length changes.
            for attempt in stamina.retry_context(
                on=(requests.RequestException, HdfsError, TornReadError),
                attempts=READ_ATTEMPTS,
                wait_initial=0.05,
                wait_max=1.0,
                timeout=self._settings.wait_s,
            ):
                with attempt:
                    return once()
        except (requests.RequestException, HdfsError, TornReadError) as error:
            raise StorageError(f"{path}: cannot be read whole: {error}") from error
        raise StorageError(f"{path}: cannot be read")  # pragma: no cover  the loop returns or raises

    def read_many(self, paths: Sequence[str]) -> list[bytes]:
        """Several files at once, in the given order."""
        if len(paths) < 2:  # noqa: PLR2004  one file needs no threads
            return [self.read(path) for path in paths]
        with ThreadPoolExecutor(min(READERS, len(paths))) as pool:
            return list(pool.map(self.read, paths))

    def write(self, path: str, data: bytes, *, overwrite: bool = True) -> None:
        """Put a whole file in place at once.

        Raises:
            StorageError: HDFS refused; or the file exists and `overwrite` is False.
        """
        # A name of its own: of two who write the same file at once, each puts its own bytes in place.
        staged = f"{self._staging}/{path.strip('/').replace('/', '~')}.{uuid.uuid4().hex}"

        def put() -> None:
            self._client.makedirs(posixpath.dirname(path))
            self._client.write(staged, data, overwrite=True, replication=self._settings.replication)
            if overwrite:
                # The package's public rename refuses an existing target; WebHDFS itself can replace it atomically.
                self._client._rename(staged, destination=path, renameoptions="OVERWRITE")  # noqa: SLF001
            else:
                self._client._rename(staged, destination=path, renameoptions="NONE")  # noqa: SLF001

        self._call(path, put)

    def exists(self, path: str) -> bool:
        return self.state(path) is not None
