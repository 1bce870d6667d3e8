"""The timestamp of the last published tick, from which a new leader knows how far the leader before it came."""

from clients.kafka.reader import SkippedRecords, TopicReader, ignore_skipped
from config.sections import KafkaSettings
from marketdata.records import Tick

_TAILS = (200, 5_000, 50_000)  # records read from the end of each partition, until they include a matching tick


async def newest_tick_ms(
    kafka: KafkaSettings,
    topic: str,
    before_ms: int,
    *,
    streamed: bool,
    on_skipped: SkippedRecords = ignore_skipped,
) -> int | None:
    """The timestamp (ms) of the newest tick older than `before_ms`; None if the end of the topic has none.

    Args:
        kafka: the broker.
        topic: of ticks.
        before_ms: event time; later ticks may come from a worker that leads now.
        streamed: whether to look at ticks of the stream, or at ticks of polls.
        on_skipped: see `TopicReader`.

    Raises:
        BrokerError: the broker does not answer.
        KafkaError: it does not answer in time.
    """
    async with TopicReader(kafka, topic, on_skipped=on_skipped) as reader:
        newest_ms: int | None = None
        async for _, froms, ends in reader.backwards(_TAILS):
            async for _record, tick in reader.decoded(Tick, froms, ends):
                if (tick.n_updates is not None) == streamed and tick.timestamp_ms < before_ms:
                    newest_ms = tick.timestamp_ms if newest_ms is None else max(newest_ms, tick.timestamp_ms)
            if newest_ms is not None:
                break
        return newest_ms
