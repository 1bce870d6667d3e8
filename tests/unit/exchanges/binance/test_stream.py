"""Messages of the Binance streams as events."""

import pytest

from exchanges.binance.stream import BinanceStream
from exchanges.interface import QuoteUpdate, ServerShutdown, SubscriptionAck, TradeUpdate
from marketdata.errors import InvalidValueError
from marketdata.markets import Market

BTC = Market("BTC", "USD")


def test_messages_of_binance() -> None:
    source = BinanceStream("wss://host/", [BTC])
    assert source.url == "wss://host/stream"
    assert source.parse(
        '{"stream":"btcusdt@bookTicker","data":{"u":7,"s":"BTCUSDT","b":"1.5","B":"2","a":"1.6","A":"3"}}'
    ) == QuoteUpdate("btcusdt@bookTicker", 7, "BTC-USD", 1.5, 2.0, 1.6, 3.0)
    assert source.parse(
        '{"stream":"btcusdt@trade","data":{"e":"trade","E":1,"s":"BTCUSDT","t":9,"p":"1.5","q":"2","T":1,"m":true}}'
    ) == TradeUpdate("btcusdt@trade", 9, "BTC-USD", 1.5, 2.0)
    assert source.parse('{"result":null,"id":3}') == SubscriptionAck(3)
    assert source.parse('{"error":{"code":2,"msg":"no"},"id":3}') == SubscriptionAck(3, '{"code":2,"msg":"no"}')
    assert source.parse('{"code":2,"msg":"no","id":3}') == SubscriptionAck(3, "2: no")
    for text in ('{"e":"serverShutdown","E":1}', '{"stream":"","data":{"e":"serverShutdown","E":1}}'):
        assert source.parse(text) == ServerShutdown()
    assert source.parse('{"stream":"other@depth","data":{"e":"depthUpdate"}}') is None


@pytest.mark.parametrize(
    "text",
    [
        '{"stream":"btcusdt@trade","da',
        '{"stream":"btcusdt@trade","data":{"t":"9","p":"1.5","q":"2"}}',
        '{"stream":"btcusdt@trade","data":{"t":9,"p":"NaN","q":"2"}}',
        '{"stream":"btcusdt@bookTicker","data":{"u":7}}',
        "[1]",
        '{"code":1,"msg":"unasked"}',
    ],
)
def test_an_undocumented_message_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        BinanceStream("wss://host", [BTC]).parse(text)
