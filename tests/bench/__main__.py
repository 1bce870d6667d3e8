"""`python -m tests.bench [ROOM …]`: measure, write build/bench/ROOM.{json,md}, print the tables."""

import importlib
import sys

from tests.bench.report import write

ROOMS = ("marketdata",)


def main(rooms: list[str]) -> int:
    unknown = sorted(set(rooms) - set(ROOMS))
    if unknown:
        sys.stderr.write(f"bench: {unknown[0]!r}: no such room; expected {', '.join(ROOMS)}\n")
        return 2
    for room in rooms or ROOMS:
        module = importlib.import_module(f"tests.bench.{room}")
        sys.stdout.write(write(room, module.rows()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
