"""Control endpoints for tests and tools: clock, faults, limits, journal. No real exchange has them.

Requests that change something need the header `X-Exchange-Control`, with any value. Web pages of other origins cannot
send it: a form has no headers, and a script's request with it is preceded by a preflight, which this server refuses.
"""

import msgspec
from aiohttp import web

from marketdata.errors import InvalidValueError
from marketdata.hosts import host_name, is_address, is_loopback
from marketdata.times import to_rfc3339
from simulator.faults import FAULTS
from simulator.state import STATE, ExchangeState, json_bytes

PREFIX = "/control"
HEADER = "X-Exchange-Control"
HOST = web.AppKey("host", str)  # lower case: the name or address that the server listens on
_READING = ("GET", "HEAD")


def answer(value: object, status: int = 200) -> web.Response:
    """Return a JSON response."""
    return web.Response(body=json_bytes(value), status=status, content_type="application/json")


def foreign(request: web.Request) -> web.Response | None:
    """Return the refusal of a request that a web page of another origin may have caused, else None."""
    own = request.app[HOST]
    name = host_name(request.headers.get("Host", ""))
    if not (is_loopback(name) or is_address(name) or name == own):
        return answer({"error": f"Host: {name!r}: expected localhost, an IP address or {own}"}, 421)
    if request.path.startswith(PREFIX) and request.method not in _READING and HEADER not in request.headers:
        return answer({"error": f"{HEADER}: missing: expected this header, with any value"}, 403)
    return None


async def _json_object(request: web.Request, *known: str) -> dict[str, object]:
    content = await request.read()
    try:
        body = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise InvalidValueError("body", content[:100], "a JSON object") from error
    if not isinstance(body, dict):
        raise InvalidValueError("body", body, "a JSON object")
    for name in body:
        if known and name not in known:
            raise InvalidValueError("body", name, f"only {', '.join(known)}")
    return body


def _number(body: dict[str, object], name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidValueError(name, value, "a number")
    return value


def _integer(body: dict[str, object], name: str) -> int | None:
    value = _number(body, name)
    return None if value is None else int(value)


def clock_state(state: ExchangeState) -> dict[str, object]:
    """Return the state of the clock."""
    clock = state.clock
    now_ms = clock.now_ms()
    return {
        "now_ms": now_ms,
        "now": to_rfc3339(now_ms),
        "speed": clock.speed,
        "start_ms": clock.start_ms,
        "data_start_ms": clock.data_start_ms,
        "end_ms": clock.end_ms,
        "ended": clock.ended,
    }


async def get_clock(request: web.Request) -> web.Response:
    """GET /control/clock."""
    return answer(clock_state(request.app[STATE]))


async def post_clock(request: web.Request) -> web.Response:
    """POST /control/clock {"now_ms", "speed", "advance_ms"}, each optional."""
    state = request.app[STATE]
    body = await _json_object(request, "now_ms", "speed", "advance_ms")
    state.clock.steer(
        now_ms=_integer(body, "now_ms"),
        advance_ms=_integer(body, "advance_ms") or 0,
        speed=_number(body, "speed"),
    )
    return answer(clock_state(state))


async def get_faults(request: web.Request) -> web.Response:
    """GET /control/faults: the active faults and all known ones."""
    return answer({"faults": [fault.as_json() for fault in request.app[STATE].faults], "known": FAULTS})


async def post_faults(request: web.Request) -> web.Response:
    """POST /control/faults {"fault", "match", "count", …params}."""
    state = request.app[STATE]
    return answer(state.faults.add(await _json_object(request), state.clock.now_ms()).as_json(), 201)


async def delete_faults(request: web.Request) -> web.Response:
    """DELETE /control/faults[?fault=NAME]; without a name, refusals and bans are reset too."""
    state = request.app[STATE]
    name = request.query.get("fault")
    if name is None:
        state.limiter.clear()
    return answer({"cleared": state.faults.clear(name)})


_SOCKET_RULES = ("ping_s", "pong_timeout_s", "life_ms", "messages_per_s", "most_streams")


def _limits(state: ExchangeState) -> dict[str, object]:
    rules = {name: getattr(state.sockets, name) for name in _SOCKET_RULES}
    limiter = state.limiter
    return {"weight": limiter.limit, "used": limiter.used, "ignored_before_ban": limiter.ignored_before_ban, **rules}


async def get_limits(request: web.Request) -> web.Response:
    """GET /control/limits."""
    return answer(_limits(request.app[STATE]))


async def post_limits(request: web.Request) -> web.Response:
    """POST /control/limits: weight (per minute), ignored_before_ban, and the WebSocket limits."""
    state = request.app[STATE]
    body = await _json_object(request, "weight", "ignored_before_ban", *_SOCKET_RULES)
    for name in body:
        value = _number(body, name)
        if value is None or value < 0:
            raise InvalidValueError(name, body[name], "a number of 0 or more")
        if name == "weight":
            state.limiter.limit = int(value)
        elif name == "ignored_before_ban":
            state.limiter.ignored_before_ban = int(value)
        else:
            setattr(state.sockets, name, type(getattr(state.sockets, name))(value))
    return answer(_limits(state))


async def get_journal(request: web.Request) -> web.Response:
    """GET /control/journal?match=PART&last=N: requests whose path contains PART, oldest first."""
    match = request.query.get("match", "")
    rows = [row for row in request.app[STATE].journal if match in row.path]
    last = request.query.get("last", "")
    return answer({"count": len(rows), "requests": rows[-int(last) :] if last.isdigit() and int(last) else rows})


async def delete_journal(request: web.Request) -> web.Response:
    """DELETE /control/journal."""
    state = request.app[STATE]
    cleared = len(state.journal)
    state.journal.clear()
    return answer({"cleared": cleared})


async def get_health(request: web.Request) -> web.Response:
    """GET /control/health: symbols, open sockets and clock."""
    state = request.app[STATE]
    return answer(
        {"healthy": True, "symbols": state.market.symbols, "sockets": len(state.open_sockets), **clock_state(state)}
    )


def routes(prefix: str) -> list[web.RouteDef]:
    """Return the routes under a prefix such as /control."""
    return [
        web.get(f"{prefix}/health", get_health),
        web.get(f"{prefix}/clock", get_clock),
        web.post(f"{prefix}/clock", post_clock),
        web.get(f"{prefix}/faults", get_faults),
        web.post(f"{prefix}/faults", post_faults),
        web.delete(f"{prefix}/faults", delete_faults),
        web.get(f"{prefix}/limits", get_limits),
        web.post(f"{prefix}/limits", post_limits),
        web.get(f"{prefix}/journal", get_journal),
        web.delete(f"{prefix}/journal", delete_journal),
    ]
