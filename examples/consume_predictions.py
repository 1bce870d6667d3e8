"""Print each prediction as it comes: python examples/consume_predictions.py [BROKERS [TOPIC]]."""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError


def line(value: bytes) -> str:
    p = json.loads(value)
    if p["schema_version"] != 1:
        raise ValueError(f"schema version {p['schema_version']}, expected 1")
    return f"{p['symbol']} {p['target_start']}: {p['lower']:.6g} to {p['upper']:.6g} ({p['role']})"


async def main(brokers: str = "127.0.0.1:19092", topic: str = "predictions") -> None:
    async with AIOKafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest") as consumer:
        async for message in consumer:
            try:
                print(line(message.value), flush=True)
            except (KeyError, TypeError, ValueError) as error:
                print(f"passed over {message.partition}@{message.offset}: {error!r}", file=sys.stderr)


try:
    asyncio.run(main(*sys.argv[1:]))
except KeyboardInterrupt:
    sys.exit(130)
except KafkaError as error:
    sys.exit(f"brokers cannot be read: {error}")
