"""Binance spot WebSocket: best quotes, trades and closed one-minute candles of all markets, over combined streams.

Wire formats: {"stream", "data"} around @bookTicker (u, s, b, B, a, A; no time), @trade (t, s, p, q, T, …) and @kline_1m
(k; its field x is true when the candle is closed). {"result": null, "id"} acknowledges a SUBSCRIBE.
{"e": "serverShutdown"} announces that the server will close the connection. Pure.
"""

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Raw, Struct

from exchanges.binance.endpoints import NAME, STREAM, STREAM_LIMITS
from exchanges.binance.klines import parse_row
from exchanges.binance.symbols import Symbols
from exchanges.fields import decimal
from exchanges.interface import QuoteUpdate, ServerShutdown, StreamEvent, SubscriptionAck, TradeUpdate
from marketdata.errors import InvalidValueError
from marketdata.markets import Market
from marketdata.records import Candle

_Reader = Callable[[str, str, Raw], StreamEvent | None]

_SHUTDOWN = "serverShutdown"
_MAX_SHOWN = 120


class _Envelope(Struct):
    stream: str = ""
    data: Raw = Raw()
    e: str = ""
    id: int | None = None
    error: Raw = Raw()
    code: int | None = None
    msg: str = ""


class _Event(Struct):
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
    l: str  # noqa: E741  a name of the wire format
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
_event = msgspec.json.Decoder(_Event).decode
_book = msgspec.json.Decoder(_Book).decode
_trade = msgspec.json.Decoder(_Trade).decode
_kline = msgspec.json.Decoder(_KlineEvent).decode


class BinanceStream:
    """Streams of market data without a key; `base_url` has no path: wss://stream.binance.com:9443."""

    name = NAME
    limits = STREAM_LIMITS

    def __init__(self, base_url: str, markets: Sequence[Market], symbols: Symbols | None = None) -> None:
        """Open no connection.

        Args:
            base_url: without a path.
            markets: whose streams are parsed.
            symbols: names of the markets; None to concatenate base and quote.
        """
        self.url = base_url.rstrip("/") + STREAM
        self._markets = markets
        self._symbols = symbols or Symbols(())
        self._readers: dict[str, tuple[_Reader, str]] = {}
        self._read_version = -1

    @property
    def version(self) -> int:
        """The version of the symbols."""
        return self._symbols.version

    def streams(self, market: Market) -> Sequence[str]:
        """bookTicker, trade and kline_1m; the API wants symbols in lower case."""
        if not self._symbols.is_listed(market):
            return ()
        symbol = self._symbols.name(market).lower()
        return (f"{symbol}@bookTicker", f"{symbol}@trade", f"{symbol}@kline_1m")

    def _reader(self, stream: str) -> tuple[_Reader, str] | None:
        """Parser and market of a stream."""
        if self._read_version != self.version:
            self._read_version = self.version
            readers: tuple[_Reader, ...] = (_quote_update, _trade_update, _closed_candle)
            self._readers = {
                name: (reader, market.symbol)
                for market in self._markets
                for name, reader in zip(self.streams(market), readers, strict=False)
            }
        return self._readers.get(stream)

    def subscription(self, streams: Sequence[str], number: int) -> str:
        """A SUBSCRIBE request."""
        return msgspec.json.encode({"method": "SUBSCRIBE", "params": list(streams), "id": number}).decode()

    def parse(self, message: str | bytes) -> StreamEvent | None:
        """The event of a message; None for candles that are not closed and for unknown streams.

        Raises:
            InvalidValueError: the message does not have a documented format.
        """
        try:
            envelope = _envelope(message)
            known = self._reader(envelope.stream)
            if known is not None:
                reader, symbol = known
                return reader(envelope.stream, symbol, envelope.data)
            return _control_event(envelope)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidValueError(
                "message", message[:_MAX_SHOWN], f"a message of a Binance stream ({error})"
            ) from error


def _control_event(envelope: _Envelope) -> StreamEvent | None:
    if _SHUTDOWN in (envelope.e, _event(envelope.data).e if bytes(envelope.data) else ""):
        return ServerShutdown()
    refusal = bytes(envelope.error).decode(errors="replace") if bytes(envelope.error) not in (b"", b"null") else None
    if refusal is None and envelope.code is not None:
        refusal = f"{envelope.code}: {envelope.msg}"
    if envelope.id is not None:
        return SubscriptionAck(envelope.id, refusal)
    if refusal is not None:
        raise InvalidValueError("message", refusal, "stream data or the response to a subscription")
    return None


def _quote_update(stream: str, symbol: str, data: Raw) -> QuoteUpdate:
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


def _trade_update(stream: str, symbol: str, data: Raw) -> TradeUpdate:
    trade = _trade(data)
    return TradeUpdate(stream, trade.t, symbol, decimal(trade.p, "p"), decimal(trade.q, "q"))


def _closed_candle(_stream: str, symbol: str, data: Raw) -> Candle | None:
    kline = _kline(data).k
    if not kline.x:
        return None
    if kline.i != "1m":
        raise InvalidValueError("k.i", kline.i, "1m")
    row = (
        *(kline.t, kline.o, kline.h, kline.l, kline.c, kline.v),
        *(kline.T, kline.q, kline.n, kline.V, kline.Q),
    )
    return parse_row(row, kline.i, "k.").minute_candle(symbol)
