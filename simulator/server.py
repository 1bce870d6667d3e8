"""HTTP and WebSocket server: routes, faults, weights, journal, Date header, start and stop."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from email.utils import formatdate

from aiohttp import web

from marketdata.errors import InvalidValueError
from simulator import binance_rest, binance_wire, binance_ws, coingecko, control
from simulator.clock import StateFile
from simulator.faults import STATUS_FAULTS, Fault
from simulator.limits import Refusal
from simulator.state import AS_OF, STATE, ExchangeState, JournalEntry

logger = logging.getLogger(__name__)

BINANCE, COINGECKO, CONTROL = "/binance", "/coingecko", control.PREFIX
SAVE_EVERY_S = 0.5
RETRY_AFTER_S = 30.0
HTTP_NO_KEY, HTTP_BANNED, HTTP_TOO_MANY = 401, 418, 429
_PAGES = {
    "403": b"<html>\r\n<head><title>403</title></head>\r\n<body><h1>403 Forbidden</h1></body>\r\n</html>\r\n",
    "502": b"<html>\r\n<head><title>502</title></head>\r\n<body><h1>502 Bad Gateway</h1></body>\r\n</html>\r\n",
}
_BINANCE_STATUSES = {
    401: (-2015, "Invalid API-key, IP, or permissions for action."),
    451: (0, "Service unavailable from a restricted location according to 'b. Eligibility' in the terms of use."),
    500: (-1000, "An unknown error occurred while processing the request."),
    503: (-1001, "Internal error; unable to process your request. Please try again."),
}
_COINGECKO_TEXTS = {
    401: "API Key Missing. Please use the header x-cg-demo-api-key.",
    429: "You've exceeded the Rate Limit.",
    451: "Unavailable For Legal Reasons",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_GARBAGE = b'{"symbol":"BTCUSDT","bidPrice":"\xff\xfe\x00<<<'

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _refused(state: ExchangeState, refusal: Refusal, now_ms: int) -> web.Response:
    if refusal.status == HTTP_BANNED:
        until_ms = now_ms + refusal.retry_after_s * 1000
        text = f"Way too much request weight used; IP banned until {until_ms}. Please use WebSocket Streams."
    else:
        limit = f"{state.limiter.limit} request weight per 1 MINUTE"
        text = f"Too much request weight used; current limit is {limit}. Please use WebSocket Streams."
    response = binance_wire.error_response(refusal.status, -1003, text)
    response.headers["Retry-After"] = str(refusal.retry_after_s)
    return response


def _status_fault(state: ExchangeState, fault: Fault, *, binance: bool) -> web.Response:
    """Return the response of a status fault in the format of the requested exchange."""
    retry_after_s = fault.number_of("retry_after_s", RETRY_AFTER_S)
    if fault.name == "throttled":
        return web.Response(status=429, text="Throttled", headers={"Retry-After": str(int(retry_after_s))})
    if fault.name in _PAGES:
        return web.Response(status=int(fault.name), body=_PAGES[fault.name], content_type="text/html")
    status = int(fault.name)
    if not binance:
        return _coingecko_status(status, retry_after_s)
    if status in {HTTP_TOO_MANY, HTTP_BANNED}:
        now_ms = state.clock.now_ms()
        return _refused(state, state.limiter.refuse(now_ms, retry_after_s, ban=status == HTTP_BANNED), now_ms)
    code, text = _BINANCE_STATUSES[status]
    return binance_wire.error_response(status, code, text)


def _coingecko_status(status: int, retry_after_s: float) -> web.Response:
    status_body: dict[str, object] = {"error_code": status, "error_message": _COINGECKO_TEXTS.get(status, "Refused")}
    if status == HTTP_NO_KEY:
        status_body["error_code"] = 10012
        return coingecko.answer({"error": {"status": status_body}}, status)
    response = coingecko.answer({"status": status_body}, status)
    if status == HTTP_TOO_MANY:
        response.headers["Retry-After"] = str(int(retry_after_s))
    return response


async def _cut(request: web.Request, whole: web.StreamResponse) -> web.StreamResponse:
    """Send the headers and half the body, then close the connection."""
    body = whole.body if isinstance(whole, web.Response) and isinstance(whole.body, bytes) else b"{}"
    response = web.StreamResponse(status=whole.status, headers={"Content-Type": whole.headers["Content-Type"]})
    response.content_length = len(body)
    response.headers["Date"] = formatdate(request.app[STATE].clock.now_ms() / 1000, usegmt=True)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


async def _answer(request: web.Request, handler: Handler, state: ExchangeState) -> web.StreamResponse:
    target = request.path_qs
    binance = request.path.startswith(BINANCE)
    rest = binance and "/api/" in request.path
    if rest:
        now_ms, divisor = state.clock.now_ms(), state.history.host.weight_divisor
        refusal = state.limiter.charge(binance_wire.weight_of(request.path, request.query, divisor), now_ms)
        if refusal is not None:
            return _refused(state, refusal, now_ms)
    slow = state.faults.take(target, "slow")
    if slow is not None:
        await asyncio.sleep(slow.number_of("delay_s", 1.0))
    fault = state.faults.take(target, *STATUS_FAULTS)
    if fault is not None:
        return _status_fault(state, fault, binance=binance)
    try:
        response = await handler(request)
    except binance_wire.BinanceError as error:
        response = binance_wire.error_response(400, error.code, error.message)
    except coingecko.CoinGeckoError as error:
        response = coingecko.answer({"error": error.message}, error.status)
    if not response.prepared:
        if state.faults.take(target, "garbage") is not None:
            return web.Response(body=_GARBAGE, headers={"Content-Type": response.headers["Content-Type"]})
        if state.faults.take(target, "cut") is not None:
            return await _cut(request, response)
    return response


@web.middleware
async def exchange_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Apply weights, faults and error formats; set the Date header in exchange time; write the journal."""
    state = request.app[STATE]
    if (refused := control.foreign(request)) is not None:
        return refused
    if request.path.startswith(CONTROL):
        try:
            return await handler(request)
        except InvalidValueError as error:
            return control.answer({"error": str(error)}, 400)
    try:
        response = await _answer(request, handler, state)
    except web.HTTPException as error:
        response = error
    # The response and its Date header must use the same instant: at speed 60 a minute may end between two readings.
    now_ms = request.get(AS_OF) or state.clock.now_ms()
    if not response.prepared:
        response.headers["Date"] = formatdate(now_ms / 1000, usegmt=True)
        if request.path.startswith(BINANCE):
            response.headers["X-MBX-USED-WEIGHT"] = response.headers["X-MBX-USED-WEIGHT-1M"] = str(state.limiter.used)
    state.journal.append(JournalEntry(now_ms, request.path, request.query_string, response.status))
    return response


def build_app(state: ExchangeState, host: str = "127.0.0.1") -> web.Application:
    """Build the application of a state, for any aiohttp runner.

    Args:
        state: what the exchange serves.
        host: the name or address to listen on, which requests may name in their Host header.
    """
    app = web.Application(middlewares=[exchange_middleware])
    app[STATE] = state
    app[control.HOST] = host.lower()
    app.add_routes(binance_rest.routes(BINANCE))
    app.add_routes(binance_ws.routes(BINANCE))
    app.add_routes(coingecko.routes(COINGECKO))
    app.add_routes(control.routes(CONTROL))
    app.on_shutdown.append(binance_ws.close_all)
    return app


async def _save_time(state: ExchangeState, state_file: StateFile | None) -> None:
    """Store the exchange time periodically; log the end of the history once."""
    logged = False
    while True:
        if state_file is not None:
            state_file.write_ms(state.clock.now_ms())
        if state.clock.ended and not logged:
            logged = True
            logger.warning("end of the history: the exchange's clock stopped at %d", state.clock.end_ms)
        await asyncio.sleep(SAVE_EVERY_S)


async def serve(
    state: ExchangeState,
    host: str,
    port: int,
    *,
    state_file: StateFile | None,
    ready: Callable[[str, int], None],
    stop: asyncio.Event,
) -> None:
    """Serve until `stop` is set; call `ready` with host and port once the server accepts requests.

    Raises:
        OSError: the port is in use.
    """
    runner = web.AppRunner(build_app(state, host), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    keeper: asyncio.Task[None] | None = None
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        keeper = asyncio.create_task(_save_time(state, state_file))
        ready(host, runner.addresses[0][1])
        await stop.wait()
    finally:
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
            if state_file is not None:
                state_file.write_ms(state.clock.now_ms())
        await runner.cleanup()
