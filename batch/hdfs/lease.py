"""One writer per table: the lock is HDFS's own lease on a lock file.

A lock is a file under `_locks` that its owner creates without overwrite and keeps open. The owner's JVM renews the
HDFS lease while it runs, and no other client can open the file for writing. Release deletes the file while it is still
open, so a closed lock file never remains. After a crash the file stays open without a live owner. A successor on the
same machine detects that the owner's JVM has ended and takes over at once; any other successor waits for HDFS's soft
limit (60 s after the last renewal). A takeover is an append, which HDFS grants to one client only.
"""

import logging
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from py4j.protocol import Py4JError, Py4JJavaError

from marketdata.errors import StorageError

_OWNER_ATTRIBUTE = "user.owner"
_RETRY_S = 0.1
_LOG_EVERY_S = 10.0
_HELD_ERRORS = ("AlreadyBeingCreatedException", "RecoveryInProgressException")
_EXISTS_ERROR = "FileAlreadyExistsException"
_MISSING_ERRORS = ("FileNotFoundException", "no such file", "does not exist")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """Owner of a lock: host name, process id and start time (Unix seconds) of its JVM."""

    host: str
    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> "Owner":
        return cls(socket.gethostname(), pid, psutil.Process(pid).create_time())

    @classmethod
    def parse(cls, text: str) -> "Owner | None":
        try:
            host, pid, started, _ = text.split(" ")
            return cls(host, int(pid), float(started))
        except ValueError:
            return None

    def text(self) -> str:
        return f"{self.host} {self.pid} {self.started}"

    @property
    def is_gone(self) -> bool:
        """True only if certain: the process was on this machine and no longer runs."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - self.started) > 1.0
        except psutil.NoSuchProcess:
            return True


class Lease:
    """A held lock. Call `check` before each file replacement and `release` at the end.

    A takeover appends to the same file, so each acquisition writes its own token to the file's owner attribute.
    """

    def __init__(self, fs: Any, path: Any, stream: Any, owner: Owner) -> None:
        self._fs = fs
        self._path = path
        self._stream = stream
        self._token = f"{owner.text()} {uuid.uuid4().hex}"
        fs.setXAttr(path, _OWNER_ATTRIBUTE, self._token.encode())

    @property
    def _is_held(self) -> bool:
        try:
            token = bytes(self._fs.getXAttr(self._path, _OWNER_ATTRIBUTE)).decode()
            return token == self._token and not self._fs.isFileClosed(self._path)
        except Py4JJavaError as error:
            if _mentions(error, *_MISSING_ERRORS):
                return False
            raise

    def check(self) -> None:
        """Check that no other writer took the lock over, for example after this machine was suspended for a minute.

        Raises:
            StorageError: the lock was taken over.
        """
        if not self._is_held:
            msg = f"{self._path.toString()}: lease lost to another writer; writing stopped"
            raise StorageError(msg)

    def release(self) -> None:
        """Release the lock. Does nothing if another writer took it over."""
        try:
            if not self._is_held:
                return  # closing the stream could close the new owner's file
            self._fs.delete(self._path, False)  # noqa: FBT003  Hadoop's signature
            self._stream.close()
        except Py4JError as error:  # HDFS refuses to close a deleted file: expected
            _log.debug("lock %s: closed with %s", self._path, type(error).__name__)


def _mentions(error: Py4JJavaError, *words: str) -> bool:
    text = str(error.java_exception.toString())
    return any(word in text for word in words)


class Locks:
    """Acquires the table locks of one file system client.

    Args:
        jvm: Spark's JVM view.
        fs: an HDFS `DistributedFileSystem`.
        folder: the folder of the lock files.
        monotonic: clock of the waiting time; replaceable for tests.
        sleep: waits between attempts; replaceable for tests.
    """

    def __init__(
        self,
        jvm: Any,
        fs: Any,
        folder: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._jvm = jvm
        self._fs = fs
        self._folder = folder
        self._monotonic = monotonic
        self._sleep = sleep
        self._owner = Owner.of(jvm.java.lang.ProcessHandle.current().pid())

    def _open(self, path: Any) -> Any | None:
        """Return the open lock file, or None if another client holds it."""
        try:
            return self._fs.create(path, False)  # noqa: FBT003
        except Py4JJavaError as error:
            if _mentions(error, *_HELD_ERRORS):
                return None
            if not _mentions(error, _EXISTS_ERROR):
                raise
        try:
            return self._fs.append(path)  # the owner ended and HDFS closed the file; one successor succeeds
        except Py4JJavaError as error:
            if _mentions(error, *_HELD_ERRORS, *_MISSING_ERRORS):
                return None
            raise

    def owner_of(self, table: str) -> Owner | None:
        """Return the owner of a table's lock, or None if the lock is free or its owner is unknown."""
        path = self._jvm.org.apache.hadoop.fs.Path(f"{self._folder}/{table}.lock")
        try:
            return Owner.parse(bytes(self._fs.getXAttr(path, _OWNER_ATTRIBUTE)).decode())
        except Py4JJavaError:
            return None

    def acquire(self, table: str, wait_s: float, stopped: Callable[[], bool] = lambda: False) -> Lease:
        """Acquire a table's lock; wait while another writer holds it.

        Raises:
            StorageError: the lock was not released within `wait_s` seconds, or `stopped` returned True.
        """
        path = self._jvm.org.apache.hadoop.fs.Path(f"{self._folder}/{table}.lock")
        began = self._monotonic()
        logged_at = began - _LOG_EVERY_S
        while True:
            stream = self._open(path)
            if stream is not None:
                return Lease(self._fs, path, stream, self._owner)
            owner = self.owner_of(table)
            if owner is not None and owner.is_gone:
                _log.warning("lease of %s: owner (process %d) has ended; taking over", table, owner.pid)
                self._fs.recoverLease(path)
            now = self._monotonic()
            holder = f"process {owner.pid} on {owner.host}" if owner else "another writer"
            if stopped() or now - began > wait_s:
                msg = f"lease of {table}: held by {holder} after {now - began:.0f} s of waiting"
                raise StorageError(msg)
            if now - logged_at >= _LOG_EVERY_S and now - began > 1.0:
                logged_at = now
                _log.info("lease of %s: waiting for %s", table, holder)
            self._sleep(_RETRY_S)

    @contextmanager
    def held(self, table: str, wait_s: float, stopped: Callable[[], bool] = lambda: False) -> Iterator[Lease]:
        """Hold a table's lock during a `with` block; see `acquire`."""
        lease = self.acquire(table, wait_s, stopped)
        try:
            yield lease
        finally:
            lease.release()
