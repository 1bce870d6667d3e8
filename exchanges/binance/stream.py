"""Binance spot WebSocket: best quotes, trades and closed one-minute candles of all markets, over combined streams.

Wire formats: {"stream", "data"} around @bookTicker (u, s, b, B, a, A; no time), @trade (t, s, p, q, T, …) and @kline_1m
(k, where x tells that the candle is closed); {"result": null, "id"} answers a SUBSCRIBE; {"e": "serverShutdown"}
announces a close. Pure: it must never do I/O.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from exchanges.binance.rest import NAME, milliseconds
from exchanges.fields import decimal
from exchanges.interface import QuoteUpdate, ServerShutdown, StreamEvent, StreamLimits, SubscriptionAck, TradeUpdate
from marketdata.errors import InvalidValueError
from marketdata.markets import Market
from marketdata.records import Candle
from marketdata.times import MINUTE_MS, to_rfc3339

T = TypeVar("T", bound=Struct)

LIMITS = StreamLimits(streams_per_connection=1024, messages_per_s=5, connects_per_5_min=300)

_SHUTDOWN = "serverShutdown"
_SHOWN = 120


class _Envelope(Struct):
    stream: str = ""
    data: Raw = Raw()
    e: str = ""
    id: int | None = None
    error: Raw = Raw()
    code: int | None = None
    msg: str = ""


class _Named(Struct):
    e: str = ""


class _Book(Struct, gc=False):
    u: int
    b: str
    B: str
    a: str
    A: str


class _Trade(Struct, gc=False):
    t: int
    p: str
    q: str


class _Kline(Struct, gc=False):
    t: int
    T: int
    i: str
    o: str
    h: str
    l: str  # noqa: E741  Binance's own names
    c: str
    v: str
    q: str
    V: str
    Q: str
    n: int
    x: bool


class _KlineEvent(Struct):
    k: _Kline


_envelope = msgspec.json.Decoder(_Envelope).decode
_named = msgspec.json.Decoder(_Named).decode
_book = msgspec.json.Decoder(_Book).decode
_trade = msgspec.json.Decoder(_Trade).decode
_kline = msgspec.json.Decoder(_KlineEvent).decode


class BinanceStream:
    """Streams of market data without a key. `base_url` without a path: wss://stream.binance.com:9443."""

    name = NAME
    limits = LIMITS

    def __init__(self, base_url: str, markets: Sequence[Market]) -> None:
        self.url = f"{base_url.rstrip('/')}/stream"
        self._readers: dict[str, tuple[Callable[[str, str, Raw], StreamEvent | None], str]] = {}
        readers: tuple[Callable[[str, str, Raw], StreamEvent | None], ...] = (_quote_of, _trade_of, _candle_of)
        for market in markets:
            for stream, reader in zip(self.streams(market), readers, strict=True):
                self._readers[stream] = (reader, market.symbol)

    def streams(self, market: Market) -> Sequence[str]:
        """bookTicker, trade and kline_1m; symbols in lower case, as the API wants them."""
        symbol = market.binance.lower()
        return (f"{symbol}@bookTicker", f"{symbol}@trade", f"{symbol}@kline_1m")

    def subscription(self, streams: Sequence[str], number: int) -> str:
        """A SUBSCRIBE."""
        return msgspec.json.encode({"method": "SUBSCRIBE", "params": list(streams), "id": number}).decode()

    def parse(self, message: str | bytes) -> StreamEvent | None:
        """What a message tells; None for candles that are not closed yet and for what was not asked for.

        Raises:
            InvalidValueError: it is not what Binance documents.
        """
        try:
            envelope = _envelope(message)
            known = self._readers.get(envelope.stream)
            if known is not None:
                reader, symbol = known
                return reader(envelope.stream, symbol, envelope.data)
            return _about_the_connection(envelope)
        except msgspec.DecodeError as error:
            raise InvalidValueError("message", message[:_SHOWN], f"a message of Binance's streams ({error})") from error


def _about_the_connection(envelope: _Envelope) -> StreamEvent | None:
    if _SHUTDOWN in (envelope.e, _named(envelope.data).e if bytes(envelope.data) else ""):
        return ServerShutdown()
    refusal = bytes(envelope.error).decode() if bytes(envelope.error) not in (b"", b"null") else None
    if refusal is None and envelope.code is not None:
        refusal = f"{envelope.code}: {envelope.msg}"
    if envelope.id is not None:
        return SubscriptionAck(envelope.id, refusal)
    if refusal is not None:
        raise InvalidValueError("message", refusal, "data, or the answer to a subscription")
    return None


def _quote_of(stream: str, symbol: str, data: Raw) -> QuoteUpdate:
    book = _book(data)
    return QuoteUpdate(
        stream,
        book.u,
        symbol,
        decimal(book.b, "b"),
        decimal(book.B, "B"),
        decimal(book.a, "a"),
        decimal(book.A, "A"),
    )


def _trade_of(stream: str, symbol: str, data: Raw) -> TradeUpdate:
    trade = _trade(data)
    return TradeUpdate(stream, trade.t, symbol, decimal(trade.p, "p"), decimal(trade.q, "q"))


def _candle_of(_stream: str, symbol: str, data: Raw) -> Candle | None:
    kline = _kline(data).k
    if not kline.x:
        return None
    open_ms, close_ms = milliseconds(kline.t), milliseconds(kline.T)
    if kline.i != "1m" or open_ms % MINUTE_MS or close_ms != open_ms + MINUTE_MS - 1:
        raise InvalidValueError("k.t", kline.t, "a whole minute whose T is its last ms")
    return Candle(
        symbol=symbol,
        open_time=to_rfc3339(open_ms),
        open=decimal(kline.o, "k.o"),
        high=decimal(kline.h, "k.h"),
        low=decimal(kline.l, "k.l"),
        close=decimal(kline.c, "k.c"),
        volume=decimal(kline.v, "k.v"),
        quote_volume=decimal(kline.q, "k.q"),
        n_trades=kline.n,
        taker_buy_volume=decimal(kline.V, "k.V"),
        taker_buy_quote_volume=decimal(kline.Q, "k.Q"),
    )
