"""Bytewax's sliding window of 300 s every 60 s: the mean of the price, in memory or with its recovery store.

Runs with the Python of build/bench-venv, where the project's packages are not installed. Windows are counted, not
published. One worker thread reads all partitions, as the other peers do.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op  # type: ignore[import-not-found]  # installed in build/bench-venv
import bytewax.operators.windowing as win  # type: ignore[import-not-found]
import msgspec
from bytewax.connectors.kafka import KafkaSource  # type: ignore[import-not-found]
from bytewax.dataflow import Dataflow  # type: ignore[import-not-found]
from bytewax.recovery import RecoveryConfig, init_db_dir  # type: ignore[import-not-found]
from bytewax.testing import TestingSink, cluster_main  # type: ignore[import-not-found]


class Tick(msgspec.Struct):
    """The fields that the window needs; msgspec skips the others, which is the fastest way to read them."""

    symbol: str
    timestamp: datetime
    price: float


def _add(state: tuple[float, int], tick: Tick) -> tuple[float, int]:
    return state[0] + tick.price, state[1] + 1


def main(argv: list[str]) -> None:
    """Process the topic to its end, print the time from the first to the last tick, and exit."""
    parser = argparse.ArgumentParser()
    for name in ("brokers", "topic", "id", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--recovery", action="store_true", help="keep the state in Bytewax's recovery store")
    options = parser.parse_args(argv)
    decode = msgspec.json.Decoder(Tick).decode
    seen, began, last, cpu, last_cpu = 0, 0.0, 0.0, 0.0, 0.0

    def ticks(messages: list[object]) -> Iterable[tuple[str, Tick]]:
        nonlocal seen, began, last, cpu, last_cpu
        # Timed at the input, once a batch: the cost of the windows is between the first tick and the last.
        last, last_cpu = time.perf_counter(), time.process_time()
        if not seen:
            began, cpu = last, last_cpu
        seen += len(messages)
        made = [decode(message.value) for message in messages]  # type: ignore[attr-defined]
        return [(tick.symbol, tick) for tick in made]

    flow = Dataflow("sliding")
    source = KafkaSource([options.brokers], [options.topic], tail=False)
    stream = op.flat_map_batch("ticks", op.input("in", flow, source), ticks)
    windows = win.fold_window(
        "mean",
        stream,
        win.EventClock(lambda tick: tick.timestamp, wait_for_system_duration=timedelta(seconds=2)),
        win.SlidingWindower(
            length=timedelta(seconds=300), offset=timedelta(seconds=60), align_to=datetime(2020, 1, 1, tzinfo=UTC)
        ),
        lambda: (0.0, 0),
        _add,
        lambda one, other: (one[0] + other[0], one[1] + other[1]),
        ordered=False,
    )
    closed: list[object] = []
    op.output("out", windows.down, TestingSink(closed))
    recovery = None
    if options.recovery:
        folder = Path(options.folder)
        folder.mkdir(parents=True)
        init_db_dir(folder, 1)
        recovery = RecoveryConfig(folder)
    cluster_main(flow, [], 0, recovery_config=recovery)
    if seen != options.count:
        raise SystemExit(f"{options.topic}: {seen} records, expected {options.count}")
    taken = {"seconds": last - began, "cpu_s": last_cpu - cpu}
    sys.stdout.write(json.dumps({"records": seen, **taken, "windows": len(closed)}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
