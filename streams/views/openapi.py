"""The worker's routes as data, and the OpenAPI 3.1 document generated from them: /api/openapi.json, docs/openapi.json.

The server adds its routes from the same entries and checks queries against their parameters.
"""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from marketdata.records import Candle, DeadLetter, FeatureRow, Prediction, Score
from marketdata.schemas import schemas
from streams.views.access import COOKIE
from streams.views.events import MAX_LISTENERS
from streams.views.read_model import MAX_POINTS
from streams.views.schemas import (
    Error,
    Features,
    Health,
    History,
    Live,
    MarketList,
    Markets,
    Predictions,
    Ready,
    Resync,
    Scores,
    Snapshot,
    TickEvent,
)

MAX_RECORDS = 500

EVENTS: dict[str, Any] = {
    "snapshot": Snapshot,
    "tick": TickEvent,
    "candle": Candle,
    "features": FeatureRow,
    "prediction": Prediction,
    "score": Score,
    "markets": MarketList,
    "dead_letter": DeadLetter,
    "health": Health,
    "resync": Resync,
}
"""Event name of /api/events → type of its data."""

_DESCRIPTION = """\
Read-only views of the collected market data, features, forecasts and scores. Any worker serves any market. Times are
RFC 3339 in UTC and event time, unless stated otherwise; prices are in the market's quote currency; null is a missing
value. Later versions can add fields.
"""
_EVENTS_DESCRIPTION = """\
Server-Sent Events, one JSON document each. `x-events` contains the schema of each event's data. `tick`, `candle`,
`features`, `prediction` and `score` are sent for the requested market (without `symbol`: the first of the settings).
`markets` (once per second, at most 250 of the changed markets, all of them in turn), `dead_letter` and `health`
(immediately, then every 2 s) are sent to every client. At most one `tick` and one `features` per market and 200 ms of
arrival time are sent; the newest record is always sent in the end. `resync`: fetch the documents again, because this
client did not keep up or the views reconnected to Kafka. With `snapshot=1` the first event is `snapshot`: everything
known about the market, without a gap to the events that follow.
"""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a path or query. `maximum`: of a whole number, and its default; None for a market's symbol."""

    name: str
    description: str
    maximum: int | None = None
    has_default: bool = True

    @property
    def schema(self) -> dict[str, Any]:
        if self.maximum is None:
            return {"type": "string", "examples": ["BTC-USD"]}
        default = {"default": self.maximum} if self.has_default else {}
        return {"type": "integer", "minimum": 1, "maximum": self.maximum, **default}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route. `response`: the type of its JSON; None for another media type."""

    path: str
    name: str
    summary: str
    response: Any = None
    media: str = "application/json"
    query: tuple[Parameter, ...] = ()
    not_found: str | None = None
    unavailable: str | None = None
    guarded: bool = True

    @property
    def in_path(self) -> tuple[Parameter, ...]:
        return (_SYMBOL,) if "{symbol}" in self.path else ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the query parameters."""
        return tuple(parameter.name for parameter in self.query)


_SYMBOL = Parameter("symbol", "A market of the settings, such as BTC-USD, in any case.")
_ONE_MARKET = Parameter("symbol", "Only this market.")
_LIMIT = Parameter("limit", "Maximum number of records.", MAX_RECORDS)
_POINTS = Parameter(
    "points", "Maximum number of points of each kind, newest kept; with many markets, fewer are stored.", MAX_POINTS
)
_SNAPSHOT = Parameter("snapshot", "1: start with the event `snapshot`.", 1, has_default=False)
_UNKNOWN = "Unknown market."

MARKETS = Endpoint("/api/markets", "markets", "Newest tick of each market", Markets)
FEATURES = Endpoint(
    "/api/markets/{symbol}/features", "features", "Newest rolling features", Features, not_found=_UNKNOWN
)
HISTORY = Endpoint(
    "/api/markets/{symbol}/history",
    "history",
    "One-minute candles and mids",
    History,
    query=(_POINTS,),
    not_found=_UNKNOWN,
)
PREDICTIONS = Endpoint(
    "/api/predictions",
    "predictions",
    "Forecasts, latest target hour first",
    Predictions,
    query=(_ONE_MARKET, _LIMIT),
    not_found=_UNKNOWN,
)
SCORES = Endpoint(
    "/api/scores",
    "scores",
    "Scores of forecasts, latest target hour first",
    Scores,
    query=(_ONE_MARKET, _LIMIT),
    not_found=_UNKNOWN,
)
HEALTH = Endpoint("/api/health", "health", "State of each part", Health)
LIVE_EVENTS = Endpoint(
    "/api/events",
    "events",
    "Live updates",
    media="text/event-stream",
    query=(_ONE_MARKET, _SNAPSHOT),
    not_found=_UNKNOWN,
)
PLOT = Endpoint(
    "/api/plot.png",
    "plot",
    "Newest plot of forecasts and truth",
    media="image/png",
    not_found="No plot yet.",
)
OPENAPI = Endpoint("/api/openapi.json", "openapi", "This document", dict[str, Any])

API = (MARKETS, FEATURES, HISTORY, PREDICTIONS, SCORES, HEALTH, LIVE_EVENTS, PLOT, OPENAPI)
WORKER = (
    Endpoint("/metrics", "metrics", "Counters and gauges for Prometheus", media="text/plain"),
    Endpoint(
        "/health/live",
        "live",
        "Whether the agents make progress",
        Live,
        unavailable="An agent is stalled.",
        guarded=False,
    ),
    Endpoint(
        "/health/ready",
        "ready",
        "Whether partitions are assigned and tables recovered",
        Ready,
        unavailable="Not ready.",
        guarded=False,
    ),
)
"""Routes of `streams.worker.health`."""


def document(*, with_token: bool, endpoints: Sequence[Endpoint] = API + WORKER) -> dict[str, Any]:
    """Return the OpenAPI document as plain JSON types; `with_token`: whether the worker requires a token."""
    types = [one.response for one in endpoints if one.response is not None]
    found, named = schemas([*types, *EVENTS.values(), Error])
    schema_of = dict(zip((str(one) for one in (*types, *EVENTS.values(), Error)), found, strict=True))
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Bitcoin DATA IA", "version": "1.0.0", "description": _DESCRIPTION},
        "paths": {one.path: {"get": _operation(one, schema_of, with_token=with_token)} for one in endpoints},
        "components": {"schemas": named},
    }
    if with_token:
        described["security"] = [{"token": []}, {"cookie": []}]
        described["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer", "description": "The setting streams.web_token."},
            "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "Set by opening /?token=…"},
        }
    return described


def _operation(one: Endpoint, schema_of: dict[str, Any], *, with_token: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": one.name, "summary": one.summary, "responses": {}}
    if one is LIVE_EVENTS:
        operation["description"] = _EVENTS_DESCRIPTION
        operation["x-events"] = {name: schema_of[str(kind)] for name, kind in EVENTS.items()}
    if parameters := [*_parameters(one.in_path, "path"), *_parameters(one.query, "query")]:
        operation["parameters"] = parameters
    ok: dict[str, Any] = {"type": "string"} if one.response is None else schema_of[str(one.response)]
    content = {one.media: {"schema": ok} if one.media != "image/png" else {}}
    description = inspect.getdoc(one.response) if isinstance(one.response, type) and one.response is not dict else None
    responses = operation["responses"]
    responses["200"] = {"description": description or one.summary, "content": content}
    error = {"application/json": {"schema": schema_of[str(Error)]}}
    if one.path.startswith("/api/"):
        responses["400"] = {"description": "A parameter is unknown or invalid.", "content": error}
    if one.guarded:
        status, reason = (
            ("401", "The token is missing or wrong.")
            if with_token
            else ("421", "The Host header is no name or address of this server.")
        )
        responses[status] = {"description": reason, "content": error}
    else:
        operation["security"] = []
    if one.not_found is not None:
        responses["404"] = {"description": one.not_found, "content": error}
    if one is LIVE_EVENTS:
        responses["503"] = {"description": f"{MAX_LISTENERS} streams of events are open.", "content": error}
    if one.unavailable is not None:
        responses["503"] = {"description": one.unavailable, "content": content}
    operation["responses"] = dict(sorted(responses.items()))
    return operation


def _parameters(parameters: Iterable[Parameter], where: str) -> list[dict[str, Any]]:
    return [
        {
            "name": parameter.name,
            "in": where,
            "description": parameter.description,
            "required": where == "path",
            "schema": parameter.schema,
        }
        for parameter in parameters
    ]
