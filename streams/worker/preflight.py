"""What a worker must have for itself before it joins its group: its data folder and its web port.

Two workers on one folder would write one RocksDB, and each would put the other out of the group. It must never touch
Kafka.
"""

import asyncio
import fcntl
import os
from pathlib import Path

from marketdata.errors import ConfigurationError

_LOCK = "worker.lock"


def claim_folder(folder: Path) -> int:
    """Lock a worker's data folder. Returns the descriptor: the lock lasts until it is closed, at `kill -9` too.

    Raises:
        ConfigurationError: another process holds the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigurationError(
            f"streams.data_dir: {folder}: expected a folder that can be written: {error}"
        ) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(held, 32).decode(errors="replace").strip()
        os.close(held)
        if isinstance(error, BlockingIOError):
            told = f"pid {holder} holds it, expected a folder that no other worker uses"
        else:
            told = f"expected a folder whose files can be locked: {error}"
        raise ConfigurationError(f"streams.data_dir: {folder}: {told}") from error
    os.ftruncate(held, 0)
    os.write(held, f"{os.getpid()}\n".encode())
    return held


async def require_free_port(host: str, port: int) -> None:
    """Hold that the web server will be able to listen.

    Raises:
        ConfigurationError: it cannot.
    """
    try:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
    except OSError as error:
        raise ConfigurationError(
            f"streams.web_port: {port}: expected a free port of {host}: {error.strerror}"
        ) from error
    server.close()
    await server.wait_closed()
