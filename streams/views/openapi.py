"""The worker's routes as data, and the OpenAPI 3.1 document made from them: /api/openapi.json and docs/openapi.json.

Routes are added to the server from these same entries, and a query is held against their parameters. It must never
hold a handler or a record.
"""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from marketdata.records import Candle, DeadLetter, FeatureRow, Prediction, Score
from marketdata.schemas import schemas
from streams.views import schemas as answers
from streams.views.access import COOKIE

MOST_RECORDS = 500
MOST_POINTS = 1_440

EVENTS: dict[str, Any] = {
    "snapshot": answers.Snapshot,
    "tick": answers.TickEvent,
    "candle": Candle,
    "features": FeatureRow,
    "prediction": Prediction,
    "score": Score,
    "markets": answers.MarketList,
    "dead_letter": DeadLetter,
    "health": answers.Health,
    "resync": answers.Resync,
}
"""Event of /api/events to the type of its data."""

_ABOUT = """\
Read-only views of what the worker collected, made and scored. Any worker answers for any market. Times are RFC 3339 in
UTC, event time unless said otherwise; prices are in the market's quote currency; null is unknown. Fields may be added.
"""
_EVENTS_ABOUT = """\
Server-Sent Events, one JSON document each. `x-events` names the schema of each event's data. `tick`, `candle`,
`features`, `prediction` and `score` are those of the market asked for (without `symbol`: the first of the settings);
`markets` (once a second, at most 250 of those that changed, each in its turn), `dead_letter` and `health` (at once,
then every 2 s) come to all. Of `tick` and `features` at most one a market and 200 ms of arrival is told, always ending
with the newest. `resync`: this listener did not keep up. With `snapshot=1` the first event is `snapshot`: all that is
known of the market, without a gap to the events that follow.
"""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of a path or query. `most`: the largest whole number; None for a market's symbol. It is the default, too."""

    name: str
    about: str
    most: int | None = None
    has_default: bool = True

    @property
    def schema(self) -> dict[str, Any]:
        if self.most is None:
            return {"type": "string", "examples": ["BTC-USD"]}
        default = {"default": self.most} if self.has_default else {}
        return {"type": "integer", "minimum": 1, "maximum": self.most, **default}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route. `answer`: the type of its JSON, or of another media type None."""

    path: str
    name: str
    about: str
    answer: Any = None
    media: str = "application/json"
    query: tuple[Parameter, ...] = ()
    missing: str | None = None
    unavailable: str | None = None
    guarded: bool = True

    @property
    def in_path(self) -> tuple[Parameter, ...]:
        return (_SYMBOL,) if "{symbol}" in self.path else ()

    @property
    def names(self) -> tuple[str, ...]:
        """What may stand in the query."""
        return tuple(parameter.name for parameter in self.query)


_SYMBOL = Parameter("symbol", "A market of the settings.")
_ONE_MARKET = Parameter("symbol", "Of this market alone.")
_LIMIT = Parameter("limit", "At most so many records.", MOST_RECORDS)
_POINTS = Parameter("points", "The newest so many of each; fewer are kept where there are many markets.", MOST_POINTS)
_SNAPSHOT = Parameter("snapshot", "1: begin with all that is known.", 1, has_default=False)
_UNKNOWN = "There is no such market."

MARKETS = Endpoint("/api/markets", "markets", "The newest tick of each market", answers.Markets)
FEATURES = Endpoint(
    "/api/markets/{symbol}/features", "features", "The newest rolling features", answers.Features, missing=_UNKNOWN
)
HISTORY = Endpoint(
    "/api/markets/{symbol}/history",
    "history",
    "One-minute candles and mids",
    answers.History,
    query=(_POINTS,),
    missing=_UNKNOWN,
)
PREDICTIONS = Endpoint(
    "/api/predictions",
    "predictions",
    "Forecasts, the latest hours first",
    answers.Predictions,
    query=(_ONE_MARKET, _LIMIT),
    missing=_UNKNOWN,
)
SCORES = Endpoint(
    "/api/scores",
    "scores",
    "How forecasts fared, the latest hours first",
    answers.Scores,
    query=(_ONE_MARKET, _LIMIT),
    missing=_UNKNOWN,
)
HEALTH = Endpoint("/api/health", "health", "The state of each part", answers.Health)
LIVE_EVENTS = Endpoint(
    "/api/events", "events", "Live updates", media="text/event-stream", query=(_ONE_MARKET, _SNAPSHOT), missing=_UNKNOWN
)
PLOT = Endpoint(
    "/api/plot.png",
    "plot",
    "The plot of the last forecasting report",
    media="image/png",
    missing="No report was made yet.",
)
OPENAPI = Endpoint("/api/openapi.json", "openapi", "This document", dict[str, Any])

API = (MARKETS, FEATURES, HISTORY, PREDICTIONS, SCORES, HEALTH, LIVE_EVENTS, PLOT, OPENAPI)
WORKER = (
    Endpoint("/metrics", "metrics", "Counters and gauges for Prometheus", media="text/plain"),
    Endpoint(
        "/health/live",
        "live",
        "Whether the agents get on with what lies on their topics",
        answers.Live,
        unavailable="An agent is stalled.",
        guarded=False,
    ),
    Endpoint(
        "/health/ready",
        "ready",
        "Whether partitions are assigned and tables recovered",
        answers.Ready,
        unavailable="Not yet, or not now.",
        guarded=False,
    ),
)
"""What `streams.worker.health` serves."""


def document(*, with_token: bool, endpoints: Sequence[Endpoint] = API + WORKER) -> dict[str, Any]:
    """The OpenAPI document as plain JSON types; `with_token`: whether this worker asks for one."""
    types = [one.answer for one in endpoints if one.answer is not None]
    found, named = schemas([*types, *EVENTS.values(), answers.Error])
    schema_of = dict(zip((str(one) for one in (*types, *EVENTS.values(), answers.Error)), found, strict=True))
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Bitcoin DATA IA", "version": "1.0.0", "description": _ABOUT},
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
    operation: dict[str, Any] = {"operationId": one.name, "summary": one.about, "responses": {}}
    if one is LIVE_EVENTS:
        operation["description"] = _EVENTS_ABOUT
        operation["x-events"] = {name: schema_of[str(kind)] for name, kind in EVENTS.items()}
    if parameters := [*_parameters(one.in_path, "path"), *_parameters(one.query, "query")]:
        operation["parameters"] = parameters
    ok: dict[str, Any] = {"type": "string"} if one.answer is None else schema_of[str(one.answer)]
    content = {one.media: {"schema": ok} if one.media != "image/png" else {}}
    about = inspect.getdoc(one.answer) if isinstance(one.answer, type) and one.answer is not dict else None
    responses = operation["responses"]
    responses["200"] = {"description": about or one.about, "content": content}
    error = {"application/json": {"schema": schema_of[str(answers.Error)]}}
    if one.path.startswith("/api/"):
        responses["400"] = {"description": "A parameter is unknown or not what is expected.", "content": error}
    if one.guarded:
        status, said = (
            ("401", "The token is missing or wrong.") if with_token else ("421", "The Host is no loopback name.")
        )
        responses[status] = {"description": said, "content": error}
    else:
        operation["security"] = []
    if one.missing is not None:
        responses["404"] = {"description": one.missing, "content": error}
    if one.unavailable is not None:
        responses["503"] = {"description": one.unavailable, "content": content}
    operation["responses"] = dict(sorted(responses.items()))
    return operation


def _parameters(parameters: Iterable[Parameter], where: str) -> list[dict[str, Any]]:
    return [
        {
            "name": parameter.name,
            "in": where,
            "description": parameter.about,
            "required": where == "path",
            "schema": parameter.schema,
        }
        for parameter in parameters
    ]
