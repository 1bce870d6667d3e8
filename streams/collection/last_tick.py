"""When the newest tick on the topic is of: what a worker that begins to lead knows of those that led before it.

It must never import Faust or write to a topic.
"""

from clients.kafka.reader import TopicReader
from config.sections import KafkaSettings
from marketdata.codec import decode
from marketdata.errors import DecodeError
from marketdata.records import Tick

_TAILS = (200, 5_000, 50_000)  # records looked at from the end of a partition, until a tick is among them


async def newest_tick_ms(kafka: KafkaSettings, topic: str, before_ms: int, *, streamed: bool) -> int | None:
    """The time (ms) of the newest tick older than `before_ms`, None where the end of the topic has none.

    Args:
        kafka: the broker.
        topic: of ticks.
        before_ms: event time; newer ticks are somebody's who has begun since.
        streamed: the stream's ticks, else the polls'.

    Raises:
        ConfigurationError: the broker does not answer.
        KafkaError: it does not answer in time.
    """
    async with TopicReader(kafka, topic) as reader:
        newest_ms: int | None = None
        async for _, froms, ends in reader.backwards(_TAILS):
            async for record in reader.between(froms, ends):
                try:
                    tick = decode(Tick, record.value)
                except DecodeError:
                    continue  # the clean agent tells of it
                if (tick.n_updates is not None) == streamed and tick.timestamp_ms < before_ms:
                    newest_ms = tick.timestamp_ms if newest_ms is None else max(newest_ms, tick.timestamp_ms)
            if newest_ms is not None:
                break
        return newest_ms
