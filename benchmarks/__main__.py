"""`python -m benchmarks [SUITE …]`: measure, write build/bench/SUITE.{json,md}, print the tables."""

import importlib
import logging
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import Bench, write
from marketdata.arguments import Parser
from tests.support.stack import running_stack

SUITES = (
    "marketdata",
    "devstack",
    "streams",
    "scaling",
    "dashboard",
    "batch",
    "forecasting",
)  # JAX's threads come last


def main(arguments: list[str]) -> int:
    parser = Parser(prog="python -m benchmarks", description="Measure; write build/bench.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"default: all of {', '.join(SUITES)}")
    suites = parser.parse_args(arguments).suites
    unknown = sorted(set(suites) - set(SUITES))
    if unknown:
        parser.error(f"{unknown[0]!r}: unknown suite, expected one of {', '.join(SUITES)}")
    logging.basicConfig(level=logging.ERROR)  # aiokafka warns about missing metadata while topics are new
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, running_stack(Path(name)) as stack:
        bench = Bench(stack, time.monotonic() - began, Path(name))
        for suite in suites or SUITES:
            module = importlib.import_module(f"benchmarks.{suite}")
            sys.stdout.write(write(suite, module.rows(bench)) + "\n")
            bench.log_progress(f"{suite} done after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
