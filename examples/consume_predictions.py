"""Print each prediction as it comes: python examples/consume_predictions.py [BROKERS [TOPIC]]."""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer


async def main(brokers: str = "127.0.0.1:19092", topic: str = "predictions") -> None:
    async with AIOKafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest") as consumer:
        async for message in consumer:
            p = json.loads(message.value)
            print(f"{p['symbol']} {p['target_start']}: {p['lower']:.6g} to {p['upper']:.6g} ({p['role']})", flush=True)


asyncio.run(main(*sys.argv[1:]))
