"""What the candle topic of a real Kafka says of the candles that were published."""

from config import Settings
from marketdata.codec import encode
from marketdata.times import HOUR_MS, MINUTE_MS
from marketdata.topics import TopicRole
from streams.collection.candles import published_minutes
from streams.kafka import topics
from tests.support.builders import SYMBOL, candle
from tests.support.streams_worker import send

START_MS = 1_722_816_000_000


async def test_a_candle_out_of_the_future_does_not_end_its_markets_candles(settings: Settings) -> None:
    await topics.ensure(settings)
    starts = [START_MS, START_MS + MINUTE_MS, START_MS + 1_000 * HOUR_MS]
    await send(settings, TopicRole.CANDLES, [(SYMBOL.encode(), encode(candle(at_ms))) for at_ms in starts])
    name = settings.topic(TopicRole.CANDLES).name
    found = await published_minutes(settings.kafka, name, [SYMBOL], START_MS + HOUR_MS)
    assert {symbol: (minutes.next_ms, minutes.gaps) for symbol, minutes in found.items()} == {
        SYMBOL: (START_MS + 2 * MINUTE_MS, [])
    }
