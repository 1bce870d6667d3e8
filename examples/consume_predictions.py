"""Print each prediction as it is published: python examples/consume_predictions.py [BROKERS [TOPIC]]."""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer

LINES = {1: "{symbol} {target_start}: {lower:.6g} to {upper:.6g} ({role})"}  # by schema version


async def main(brokers: str = "127.0.0.1:19092", topic: str = "predictions") -> None:
    async with AIOKafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest") as consumer:
        async for message in consumer:
            try:
                line = LINES[(p := json.loads(message.value))["schema_version"]].format_map(p)
                print(line if line.isprintable() else ascii(line), flush=True)  # terminals act on control characters
            except (KeyError, TypeError, ValueError) as error:
                print(f"skipped {message.partition}@{message.offset}, not a prediction: {error!r}", file=sys.stderr)


sys.excepthook = lambda _type, error, _traceback: print(f"ended: {error!r}", file=sys.stderr)
print(__doc__) if {"-h", "--help"} & {*sys.argv} else asyncio.run(main(*sys.argv[1:]))
