"""What must be true before anything starts; each failure is one line that says what to do."""

import shutil
import socket
from collections.abc import Iterable
from pathlib import Path

import psutil

from devstack.health import endpoint
from marketdata.errors import StackError

_GIB = 1 << 30
MEMORY_GIB = 6
DISK_GIB = 5
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_memory(total_bytes: int | None = None) -> None:
    """Kafka, HDFS, Spark and Keras together need about 5 GiB.

    Raises:
        StackError: the machine has too little.
    """
    total = psutil.virtual_memory().total if total_bytes is None else total_bytes
    if total < MEMORY_GIB * _GIB:
        raise StackError(
            f"memory: {total / _GIB:.1f} GiB in this machine, expected {MEMORY_GIB} GiB or more: "
            "use a larger machine, or name a Kafka and an HDFS elsewhere (kafka.brokers, hdfs.url)"
        )


def check_disk(folder: Path, free_bytes: int | None = None) -> None:
    """Room for data and logs on the disk of `folder`, which need not be there yet.

    Raises:
        StackError: the disk has too little.
    """
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free if free_bytes is None else free_bytes
    if free < DISK_GIB * 1_000_000_000:
        raise StackError(
            f"disk: {free / 1e9:.1f} GB free at {there}, expected {DISK_GIB} GB or more: "
            "free some, or move the data with devstack.state_dir (BDI_DEVSTACK__STATE_DIR)"
        )


def check_ports(wanted: Iterable[tuple[str, str, str]]) -> None:
    """Each of `wanted` is (part, address, the setting that moves it): here, and nobody listens there.

    Here is loopback, or this machine's own name: a container is reached by its name and by nothing else.

    Raises:
        StackError: an address is not one of this machine's, or its port is taken.
    """
    here = {*LOOPBACK, socket.gethostname()}
    for part, address, setting in wanted:
        variable = "BDI_" + setting.upper().replace(".", "__")
        try:
            host, port = endpoint(address)
        except ValueError as error:
            raise StackError(f"{setting}: {error}") from error
        if host not in here:
            raise StackError(
                f"{setting}: {address}: expected an address on loopback (or this machine's own name, "
                f"{socket.gethostname()}), for {part} is to run here"
            )
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            # As the daemons themselves do: connections of an earlier run that linger in TIME_WAIT do not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise StackError(
                    f"port {port} is taken, and {part} needs it: stop what listens there, or move {part} with "
                    f"{setting} ({variable})"
                ) from error
