"""Shared parts of Binance's REST API: request parameters, weights, error responses and number format."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from simulator.state import ExchangeState, json_bytes

MICROSECONDS_FROM = 10**14
SMALL_MANY, LARGE_MANY = 20, 100

_SYMBOL = re.compile(r"[A-Z0-9-_.]{1,20}")
_DIGITS = re.compile(r"[0-9]{1,20}")
_CONTENT_TYPE = "application/json;charset=UTF-8"


class BinanceError(Exception):
    """An error response {"code", "msg"} with HTTP 400."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def answer(body: bytes, status: int = 200) -> web.Response:
    """Return a JSON response with Binance's content type."""
    headers = {"Content-Type": _CONTENT_TYPE, "Cache-Control": "no-cache, no-store, must-revalidate"}
    return web.Response(body=body, status=status, headers=headers)


def error_response(status: int, code: int, message: str) -> web.Response:
    """Return an error response in Binance's format."""
    return answer(json_bytes({"code": code, "msg": message}), status)


def decimal(value: float) -> str:
    """Format a number with 8 decimals; digits after the 15 significant ones of a double are 0."""
    if value < 1e7:  # noqa: PLR2004  7 + 8 digits
        return f"{value:.8f}"
    digits = max(15 - len(str(int(value))), 0)
    text = f"{value:.{digits}f}"
    return text + ("0" * (8 - digits) if digits else ".00000000")


@dataclass(frozen=True, slots=True)
class RequestedSymbols:
    """The symbols of a request; `one` requests an object (`symbol=`), otherwise an array."""

    symbols: tuple[str, ...]
    one: bool
    all: bool


def requested_symbols(values: Mapping[str, str], known: tuple[str, ...], *, needed: bool = False) -> RequestedSymbols:
    """Parse `symbol` or `symbols`.

    Raises:
        BinanceError: both are present, or a symbol is malformed, unknown, or missing although `needed`.
    """
    symbol, symbols = values.get("symbol"), values.get("symbols")
    if symbol is not None and symbols is not None:
        raise BinanceError(-1128, "Combination of optional parameters invalid.")
    if symbols is not None:
        try:
            names = json.loads(symbols)
        except ValueError:
            names = None
        if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
            legal = '^\\[("[A-Z0-9-_.]{1,20}"(,"[A-Z0-9-_.]{1,20}"){0,}){0,1}\\]$'
            raise BinanceError(-1100, f"Illegal characters found in parameter 'symbols'; legal range is '{legal}'.")
        return RequestedSymbols(tuple(_known(name, known) for name in names), one=False, all=False)
    if symbol is None or not symbol:
        if needed or symbol is not None:
            raise missing("symbol")
        return RequestedSymbols(known, one=False, all=True)
    return RequestedSymbols((_known(symbol, known),), one=True, all=False)


def _known(symbol: str, known: tuple[str, ...]) -> str:
    if _SYMBOL.fullmatch(symbol) is None:
        raise BinanceError(
            -1100, "Illegal characters found in parameter 'symbol'; legal range is '^[A-Z0-9-_.]{1,20}$'."
        )
    if symbol not in known:
        raise BinanceError(-1121, "Invalid symbol.")
    return symbol


def missing(name: str) -> BinanceError:
    """Return the error for a missing parameter."""
    return BinanceError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def integer(request: web.Request, name: str) -> int | None:
    """Return an integer parameter, or None if it is absent.

    Raises:
        BinanceError: the value is not an integer.
    """
    text = request.query.get(name)
    if text is None:
        return None
    if _DIGITS.fullmatch(text) is None:
        raise BinanceError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)


def time_of(request: web.Request, name: str) -> int | None:
    """Return a time parameter in ms."""
    value = integer(request, name)
    return value // 1000 if value is not None and value >= MICROSECONDS_FROM else value


def unit_of(request: web.Request) -> int:
    """Return the factor from ms to the requested time unit."""
    return 1000 if request.headers.get("X-MBX-TIME-UNIT", "").upper() == "MICROSECOND" else 1


def weight_of(path: str, values: Mapping[str, str], divisor: int = 1) -> int:
    """Return the documented weight of a request, divided by `divisor` and at least 1."""
    return max(_weight(path, values) // divisor, 1)


def _weight(path: str, values: Mapping[str, str]) -> int:
    name = path.rpartition("/api/v3/")[2]
    if name == "ticker/24hr":
        if "symbol" in values:
            return 2
        named = values["symbols"].count(",") + 1 if "symbols" in values else LARGE_MANY + 1
        return 2 if named <= SMALL_MANY else 40 if named <= LARGE_MANY else 80
    if name in {"ticker/bookTicker", "ticker/price"}:
        return 2 if "symbol" in values else 4
    return {"klines": 2, "uiKlines": 2, "avgPrice": 2, "exchangeInfo": 20}.get(name, 1)


def listed_symbols(state: ExchangeState, target: str) -> tuple[str, ...]:
    """Return the symbols listed for a request or stream: all except those that the fault `unlisted` removes."""
    fault = state.faults.take(target, "unlisted")
    unlisted = frozenset(fault.names_of("symbols", ())) if fault is not None else frozenset[str]()
    return tuple(symbol for symbol in state.market.symbols if symbol not in unlisted)
