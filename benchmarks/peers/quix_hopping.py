"""Quix Streams' hopping window of 300 s every 60 s: the mean of the price, with state in RocksDB and a changelog.

Runs with the Python of build/bench-venv, where the project's packages are not installed. Windows are counted, not
published.
"""

import argparse
import json
import sys
import time

from quixstreams import Application  # type: ignore[import-not-found]  # installed in build/bench-venv


def main(argv: list[str]) -> None:
    """Process `--count` ticks, print the time from the first to the last, and exit."""
    parser = argparse.ArgumentParser()
    for name in ("brokers", "topic", "id", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args(argv)
    app = Application(
        broker_address=options.brokers,
        consumer_group=options.id,
        auto_offset_reset="earliest",
        state_dir=options.folder,
        loglevel="WARNING",
    )
    frame = app.dataframe(app.topic(options.topic, value_deserializer="json"))
    seen, made, began, last, cpu, last_cpu = 0, 0, 0.0, 0.0, 0.0, 0.0

    def count(price: float) -> float:
        nonlocal seen, began, last, cpu, last_cpu
        seen += 1
        last, last_cpu = time.perf_counter(), time.process_time()
        if seen == 1:
            began, cpu = last, last_cpu
        return price

    def result(_window: object) -> None:
        nonlocal made
        made += 1

    # Timed at the input: the cost of the windows is between the first tick and the last.
    windows = frame.apply(lambda tick: count(tick["price"])).hopping_window(300_000, 60_000).mean().current()
    windows.update(result)
    app.run(count=options.count, timeout=60)
    taken = {"seconds": last - began, "cpu_s": last_cpu - cpu}
    sys.stdout.write(json.dumps({"records": seen - 1, **taken, "windows": made}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
