"""One writer a table: HDFS's own lease on a lock file is the lock.

A lock is a file under `_locks` that its owner created without overwrite and keeps open; the client's JVM renews its
lease for as long as it lives, and nobody else can open the file for writing. Giving it back deletes the file while it
is still open, so there is no moment in which a closed lock lies about. After a crash the file stays open in nobody's
hand: a successor takes it at once where it can tell that the owner's JVM is gone (same machine), else when HDFS's soft
limit (60 s after the last renewal) has passed. Taking over is an append, which HDFS grants to one client only.
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

_OWNER = "user.owner"
_RETRY_S = 0.1
_TELL_EVERY_S = 10.0
_HELD = ("AlreadyBeingCreatedException", "RecoveryInProgressException")
_CLOSED = "FileAlreadyExistsException"
_GONE = ("FileNotFoundException", "no such file", "does not exist")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock: the machine, and the JVM's process id and start time there."""

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
        """True where it is certain: this machine's process of that id and start time no longer runs."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - self.started) > 1.0
        except psutil.NoSuchProcess:
            return True


class Lease:
    """A held lock; `check` before each replacement, `release` at the end.

    A successor who takes over appends to the same file, so who holds it is told by a mark of each taking.
    """

    def __init__(self, fs: Any, path: Any, stream: Any, owner: Owner) -> None:
        self._fs = fs
        self._path = path
        self._stream = stream
        self._mark = f"{owner.text()} {uuid.uuid4().hex}"
        fs.setXAttr(path, _OWNER, self._mark.encode())

    @property
    def _still_ours(self) -> bool:
        try:
            mark = bytes(self._fs.getXAttr(self._path, _OWNER)).decode()
            return mark == self._mark and not self._fs.isFileClosed(self._path)
        except Py4JJavaError as error:
            if _says(error, *_GONE):
                return False
            raise

    def check(self) -> None:
        """Make sure that the lock was not taken over, as when this machine slept for more than a minute.

        Raises:
            StorageError: it was.
        """
        if not self._still_ours:
            msg = f"{self._path.toString()}: the writer's lease was lost to another writer; nothing more is written"
            raise StorageError(msg)

    def release(self) -> None:
        """Give the lock back. A lock that was lost is left to its new owner."""
        try:
            if not self._still_ours:
                return  # closing could end the file under its new owner
            self._fs.delete(self._path, False)  # noqa: FBT003  Hadoop's signature
            self._stream.close()
        except Py4JError as error:  # closing what was just deleted is refused: that is the plan
            _log.debug("lock %s: closed with %s", self._path, type(error).__name__)


def _says(error: Py4JJavaError, *words: str) -> bool:
    text = str(error.java_exception.toString())
    return any(word in text for word in words)


class Locks:
    """Takes the locks of one file system client.

    Args:
        jvm: Spark's JVM view.
        fs: an HDFS `DistributedFileSystem`.
        folder: where lock files lie.
        monotonic, sleep: the machine's, but for tests.
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
        """The open lock file, None where somebody else has it."""
        try:
            return self._fs.create(path, False)  # noqa: FBT003
        except Py4JJavaError as error:
            if _says(error, *_HELD):
                return None
            if not _says(error, _CLOSED):
                raise
        try:
            return self._fs.append(path)  # its owner died and HDFS closed it: one successor gets it
        except Py4JJavaError as error:
            if _says(error, *_HELD, *_GONE):
                return None
            raise

    def owner_of(self, table: str) -> Owner | None:
        """Who holds a table's lock, None where nobody does or it cannot be told."""
        path = self._jvm.org.apache.hadoop.fs.Path(f"{self._folder}/{table}.lock")
        try:
            return Owner.parse(bytes(self._fs.getXAttr(path, _OWNER)).decode())
        except Py4JJavaError:
            return None

    def acquire(self, table: str, wait_s: float, stopped: Callable[[], bool] = lambda: False) -> Lease:
        """Take a table's lock, waiting for its owner.

        Raises:
            StorageError: the owner did not give it back within `wait_s`, or `stopped` became true.
        """
        path = self._jvm.org.apache.hadoop.fs.Path(f"{self._folder}/{table}.lock")
        began = self._monotonic()
        told = began - _TELL_EVERY_S
        while True:
            stream = self._open(path)
            if stream is not None:
                return Lease(self._fs, path, stream, self._owner)
            owner = self.owner_of(table)
            if owner is not None and owner.is_gone:
                _log.warning("lease of %s: its owner (process %d) is gone; taking over", table, owner.pid)
                self._fs.recoverLease(path)
            now = self._monotonic()
            holder = f"process {owner.pid} on {owner.host}" if owner else "another writer"
            if stopped() or now - began > wait_s:
                msg = f"lease of {table}: held by {holder} after {now - began:.0f} s of waiting"
                raise StorageError(msg)
            if now - told >= _TELL_EVERY_S and now - began > 1.0:
                told = now
                _log.info("lease of %s: held by %s, waiting", table, holder)
            self._sleep(_RETRY_S)

    @contextmanager
    def held(self, table: str, wait_s: float, stopped: Callable[[], bool] = lambda: False) -> Iterator[Lease]:
        """`acquire` for the length of a `with` block."""
        lease = self.acquire(table, wait_s, stopped)
        try:
            yield lease
        finally:
            lease.release()
