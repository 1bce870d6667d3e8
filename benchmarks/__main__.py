"""`python -m benchmarks [ROOM …]`: measure, write build/bench/ROOM.{json,md}, print the tables."""

import importlib
import logging
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import Bench, write
from tests.support.stack import running_stack

ROOMS = ("marketdata", "devstack", "streams", "scaling", "dashboard", "batch", "forecasting")  # JAX's threads come last


def main(rooms: list[str]) -> int:
    unknown = sorted(set(rooms) - set(ROOMS))
    if unknown:
        sys.stderr.write(f"bench: {unknown[0]!r}: no such room; expected {', '.join(ROOMS)}\n")
        return 2
    logging.basicConfig(level=logging.ERROR)  # what a client says while topics are new is no news
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, running_stack(Path(name)) as stack:
        bench = Bench(stack, time.monotonic() - began, Path(name))
        for room in rooms or ROOMS:
            module = importlib.import_module(f"benchmarks.{room}")
            sys.stdout.write(write(room, module.rows(bench)) + "\n")
            bench.tell(f"{room} is done after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
