"""Checks before a worker joins its group: it needs a data folder and a web port of its own.

Two workers on one folder would write to one RocksDB, and each would remove the other from the group.
"""

import asyncio
import fcntl
import os
from pathlib import Path

from config.paths import private_dir
from marketdata.errors import ConfigurationError

_LOCK = "worker.lock"


def claim_folder(folder: Path) -> int:
    """Lock a worker's data folder.

    Returns:
        The file descriptor that holds the lock; the lock ends when it is closed, also by SIGKILL.

    Raises:
        ConfigurationError: another process holds the lock, or the folder is not writable.
    """
    try:
        private_dir(folder)
        held = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigurationError(f"streams.data_dir: {folder}: expected a writable folder: {error}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(held, 32).decode(errors="replace").strip()
        os.close(held)
        if isinstance(error, BlockingIOError):
            problem = f"locked by pid {holder}, expected a folder that no other worker uses"
        else:
            problem = f"expected a folder whose files can be locked: {error}"
        raise ConfigurationError(f"streams.data_dir: {folder}: {problem}") from error
    os.ftruncate(held, 0)
    os.write(held, f"{os.getpid()}\n".encode())
    return held


async def require_free_port(host: str, port: int) -> None:
    """Check that the web server can listen on its port.

    Raises:
        ConfigurationError: the port is in use or not permitted.
    """
    try:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
    except OSError as error:
        raise ConfigurationError(
            f"streams.web_port: {port}: expected a free port on {host}: {error.strerror}"
        ) from error
    server.close()
    await server.wait_closed()
