"""Checks before a start: memory, disk space and ports. Each error is one line and gives a remedy."""

import shutil
import socket
from collections.abc import Iterable
from pathlib import Path

import psutil

from devstack.health import endpoint
from marketdata.errors import StackError

_GIB = 1 << 30
MEMORY_GIB = 6
DISK_GB = 5
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_memory(total_bytes: int | None = None) -> None:
    """Check for `MEMORY_GIB` of memory; Kafka, HDFS, Spark and Keras together use about 5 GiB.

    Raises:
        StackError: the machine has less.
    """
    total = psutil.virtual_memory().total if total_bytes is None else total_bytes
    if total < MEMORY_GIB * _GIB:
        raise StackError(
            f"memory: {total / _GIB:.1f} GiB in this machine, expected {MEMORY_GIB} GiB or more: "
            "use a larger machine, or Kafka and HDFS on other machines (kafka.brokers, hdfs.url)"
        )


def check_disk(folder: Path, free_bytes: int | None = None) -> None:
    """Check for `DISK_GB` of free space for data and logs on the disk of `folder`, which may not exist yet.

    Raises:
        StackError: the disk has less.
    """
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free if free_bytes is None else free_bytes
    if free < DISK_GB * 1_000_000_000:
        raise StackError(
            f"disk: {free / 1e9:.1f} GB free at {existing}, expected {DISK_GB} GB or more: "
            "free disk space, or move the data with devstack.state_dir (BDI_DEVSTACK__STATE_DIR)"
        )


def check_ports(wanted: Iterable[tuple[str, str, str]]) -> None:
    """Check that each address is local and its port is free.

    Local means loopback or this machine's host name; a container is only reachable by its host name.

    Args:
        wanted: (part, address, setting that changes the address).

    Raises:
        StackError: an address is not local, or its port is in use.
    """
    local = {*LOOPBACK, socket.gethostname()}
    for part, address, setting in wanted:
        variable = "BDI_" + setting.upper().replace(".", "__")
        try:
            host, port = endpoint(address)
        except ValueError as error:
            raise StackError(f"{setting}: {error}") from error
        if host not in local:
            raise StackError(
                f"{setting}: {address}: expected a loopback address or this machine's host name "
                f"({socket.gethostname()}), because {part} runs on this machine"
            )
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            # As the daemons do: connections of an earlier run in TIME_WAIT do not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise StackError(
                    f"port {port} is in use, and {part} needs it: stop the program that listens there, or set another "
                    f"port for {part} with {setting} ({variable})"
                ) from error
