"""Stock Faust with one worker: an agent that does nothing, or Faust's own hopping window of 300 s every 60 s.

`python -m benchmarks.peers.faust_stock empty|hopping --brokers … --topic … --partitions … --count … --folder …`
Messages are processed one by one, as Faust delivers them; the table is in memory, with its changelog on the broker.
"""

import argparse
import json
import os
import signal
import sys
import time
from datetime import timedelta
from typing import Any

import faust
import msgspec


class _Price(msgspec.Struct):
    symbol: str
    price: float


def main(argv: list[str]) -> None:
    """Process `--count` events, print the time from the first to the last, and exit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("empty", "hopping"))
    for name in ("brokers", "topic", "id", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args(argv)
    app = faust.App(
        options.id,
        broker=f"kafka://{options.brokers}",
        autodiscover=False,
        origin="tests",
        datadir=options.folder,
        store="memory://",
        topic_partitions=options.partitions,
        topic_replication_factor=1,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        web_host="127.0.0.1",
        web_port=options.port,
        web_enabled=False,
    )
    topic = app.topic(options.topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    seen, began, cpu = 0, 0.0, 0.0

    def count() -> None:
        nonlocal seen, began, cpu
        seen += 1
        if seen == 1:
            began, cpu = time.perf_counter(), time.process_time()
        elif seen == options.count:
            taken = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
            line = json.dumps({"records": seen - 1, **taken})
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGTERM)

    if options.kind == "empty":

        async def empty(stream: Any) -> None:
            async for _value in stream:
                count()

        app.agent(topic, name="empty")(empty)
    else:
        prices = msgspec.json.Decoder(_Price)
        table = app.Table("sums", default=float, key_type=str, value_type=float)
        hops = table.hopping(300.0, 60.0, expires=timedelta(hours=1))

        async def hopping(stream: Any) -> None:
            async for value in stream:
                tick = prices.decode(value)
                hops[tick.symbol] += tick.price
                count()

        app.agent(topic, name="hopping")(hopping)
    faust.Worker(app, loglevel="warning", redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    main(sys.argv[1:])
