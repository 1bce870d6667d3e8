"""The views' HTTP handlers, on Faust's web server: the routes of `streams.views.openapi`, input checks and headers.

All routes are read-only. `streams.views.responses` computes the JSON documents.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
from aiohttp import web

from clients.clock import Clock, SystemClock
from clients.http_health import storage_problem
from config.settings import Settings
from exchanges.refusals import Pause
from marketdata.errors import InvalidValueError
from marketdata.markets import close_matches
from marketdata.part_status import PartSummary
from marketdata.printable import printable
from marketdata.records import Record, Tick
from marketdata.topics import TopicRole
from streams.views import openapi, part_health, responses
from streams.views.access import guard
from streams.views.events import MAX_LISTENERS, Hub
from streams.views.exposition import ReadModelCollector
from streams.views.follower import Follower
from streams.views.openapi import MAX_RECORDS, Endpoint
from streams.views.read_model import MAX_POINTS, HdfsView, ReadModel
from streams.worker.supervise import forever
from streams.worker.web_server import connection_limit

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
_FILES = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}
_WRITE_S = 30.0  # a listener that reads nothing for this long is disconnected
_RETRY_AFTER = "10"  # seconds
_HEALTH_S = 2.0
_HDFS_S = 10.0  # between two probes
_HDFS_TIMEOUT_S = 5.0
_PAUSE_S = 1.0  # before a failed task restarts
_MARKETS_S = 1.0
_MARKETS_ROWS = 250  # per event: about 9 kB, independent of the number of markets
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_EVENT_NAMES = {
    TopicRole.TICKS_CLEAN: "tick",
    TopicRole.CANDLES: "candle",
    TopicRole.FEATURES: "features",
    TopicRole.PREDICTIONS: "prediction",
    TopicRole.PREDICTION_SCORES: "score",
    TopicRole.DEAD_LETTERS: "dead_letter",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _NotFoundError(InvalidValueError):
    """The requested market, file or document does not exist; answered with 404."""


def attach(app: Any, settings: Settings, clock: Clock) -> "Views":
    """Add the dashboard and the API to a Faust application; its web server starts and stops them.

    Args:
        app: the Faust application, before its web server starts.
        settings: the worker's settings.
        clock: event time. It need not be started yet (RuntimeError); views then show the time as unknown.
    """
    views = Views(settings, clock, app.worker_state.metrics.pauses)
    views.add_to(app.web.web_app)
    symbols = frozenset(settings.forecasting.symbols)
    app.worker_state.metrics.registry.register(
        ReadModelCollector(views.read_model, views.now_ms, symbols, views.summaries)
    )
    return views


class Views:
    """The read model, its follower and the routes of one worker."""

    def __init__(
        self, settings: Settings, clock: Clock, pauses: Mapping[tuple[str, str], Pause] = MappingProxyType({})
    ) -> None:
        self._settings = settings
        self._pauses = pauses
        self._clock = clock
        self.read_model = ReadModel(settings.markets)
        # The other half of the connections is for requests, such as those of probes.
        self.hub = Hub(min(MAX_LISTENERS, connection_limit() // 2))
        self.hdfs = HdfsView()
        self._unix_ms = SystemClock().now_ms
        self.follower = Follower(
            settings,
            self.read_model,
            self._on_record,
            self.now_ms,
            self._resync,
            on_outage=lambda: self.hub.publish("health", self._health_document()),
        )
        self._changed: dict[str, None] = {}  # symbols, in the order of change
        self._tasks: list[asyncio.Task[None]] = []

    def add_to(self, server: web.Application) -> None:
        """Add routes, access control, and start and stop handlers to an aiohttp application that is not running yet."""
        server.middlewares.append(guard(self._settings.streams, _refusal))
        server.on_response_prepare.append(_with_headers)
        for endpoint, handler in (
            (openapi.MARKETS, self._markets),
            (openapi.FEATURES, self._features),
            (openapi.HISTORY, self._history),
            (openapi.PREDICTIONS, self._predictions),
            (openapi.SCORES, self._scores),
            (openapi.HEALTH, self._health),
            (openapi.LIVE_EVENTS, self._events),
            (openapi.PLOT, self._plot),
            (openapi.OPENAPI, self._openapi),
        ):
            server.router.add_get(endpoint.path, _with_json_errors(handler, endpoint))
        server.router.add_get("/", _with_json_errors(self._page))
        server.router.add_get("/api/{name:.*}", _with_json_errors(self._unknown_path))
        server.router.add_get("/static/{name:.+}", _with_json_errors(self._static))
        server.on_startup.append(self._start)
        server.on_shutdown.append(self._stop)

    async def _start(self, _server: web.Application) -> None:
        parts = {
            "follower": self.follower.run,
            "health events": self._publish_health,
            "HDFS probe": self._probe_hdfs,
            "markets events": self._publish_markets,
        }
        self._tasks = [asyncio.create_task(forever(f"views: {name}", run, _PAUSE_S)) for name, run in parts.items()]

    async def _stop(self, _server: web.Application) -> None:
        """Stop all tasks. Faust's web server calls this twice; the second call does nothing."""
        self.hub.close()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def now_ms(self) -> int | None:
        """Return event time; None before the worker's clock has started."""
        try:
            return self._clock.now_ms()
        except RuntimeError:  # the clock has not started
            return None

    # Live events

    def _on_record(self, role: TopicRole, record: Record) -> None:
        if self.hub.is_idle:
            return
        if isinstance(record, Tick):
            self._changed[record.symbol] = None
            if self.hub.is_followed(record.symbol):
                self.hub.publish("tick", responses.tick_event(self.read_model, record), record.symbol)
        elif role is TopicRole.DEAD_LETTERS:
            self.hub.publish(_EVENT_NAMES[role], record)
        else:
            self.hub.publish(_EVENT_NAMES[role], record, record.symbol)

    def _resync(self) -> None:
        """Make all listeners fetch the documents again."""
        self.hub.publish("resync", {})

    async def _publish_markets(self) -> None:
        while True:
            await asyncio.sleep(_MARKETS_S)
            changed, self.read_model.changed_sources = self.read_model.changed_sources, set()
            for symbol in filter(self.hub.is_followed, changed):
                self.hub.publish("tick", responses.sources_event(self.read_model, symbol), symbol)
            symbols = list(islice(self._changed, _MARKETS_ROWS))  # the others follow in the next event
            for symbol in symbols:
                del self._changed[symbol]
            if symbols:
                self.hub.publish("markets", responses.summary(self.read_model, symbols))

    async def _publish_health(self) -> None:
        while True:
            if not self.hub.is_idle:
                self.hub.publish("health", self._health_document())
            await asyncio.sleep(_HEALTH_S)

    async def _probe_hdfs(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_HDFS_TIMEOUT_S):
                    problem = await storage_problem(self._settings.hdfs.webhdfs)
            except TimeoutError:
                problem = f"no answer within {_HDFS_TIMEOUT_S:g} s"
            self.hdfs.note(None if problem is None else f"{self._settings.hdfs.webhdfs}: {problem}", self._unix_ms())
            await asyncio.sleep(_HDFS_S)

    def summaries(self) -> list[PartSummary]:
        """Return the state of the parts that run in other programs, and of HDFS."""
        return part_health.summaries(self.read_model, self.hdfs, self.follower.kafka, self._unix_ms())

    def _health_document(self) -> responses.Document:
        kafka = self.follower.kafka
        programs = part_health.documents(self.summaries(), kafka, self._unix_ms())
        document = responses.health(self.read_model, kafka, self._settings, self.now_ms(), self._pauses, programs)
        return document | {"plot": self._settings.forecasting.plot_path.is_file()}

    # Pages

    async def _page(self, request: web.Request) -> web.StreamResponse:
        _reject_unknown_parameters(request, ())
        return web.FileResponse(STATIC / "index.html")

    async def _static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = _FILES.get(name)
        if path is None:
            raise _NotFoundError("path", name, "a file of the dashboard")
        # Browsers load a module only with this type; aiohttp's type of .mjs depends on the system.
        headers = {"Content-Type": "text/javascript; charset=utf-8"} if path.suffix in (".js", ".mjs") else {}
        return web.FileResponse(path, headers=headers)

    async def _markets(self, _request: web.Request) -> web.StreamResponse:
        return _json(responses.markets(self.read_model, self.now_ms()))

    async def _features(self, request: web.Request) -> web.StreamResponse:
        return _json(responses.features(self.read_model, self._market(request.match_info["symbol"])))

    async def _history(self, request: web.Request) -> web.StreamResponse:
        symbol = self._market(request.match_info["symbol"])
        return _json(responses.history(self.read_model, symbol, _whole_number(request, "points", MAX_POINTS)))

    async def _predictions(self, request: web.Request) -> web.StreamResponse:
        return _json(
            responses.predictions(
                self.read_model, self._optional_market(request), _whole_number(request, "limit", MAX_RECORDS)
            )
        )

    async def _scores(self, request: web.Request) -> web.StreamResponse:
        return _json(
            responses.scores(
                self.read_model, self._optional_market(request), _whole_number(request, "limit", MAX_RECORDS)
            )
        )

    async def _health(self, _request: web.Request) -> web.StreamResponse:
        return _json(self._health_document())

    async def _openapi(self, _request: web.Request) -> web.StreamResponse:
        return _json(openapi.document(with_token=self._settings.streams.web_token is not None))

    async def _plot(self, _request: web.Request) -> web.StreamResponse:
        path = self._settings.forecasting.plot_path
        if not path.is_file():
            raise _NotFoundError(
                "plot",
                str(path.name),
                "a plot of forecasts, written by training or by the predictor; there is none yet",
            )
        return web.FileResponse(path, headers={"Content-Type": "image/png"})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        symbol = self._optional_market(request) or self.read_model.symbols[0]
        _whole_number(request, "snapshot", 1)
        if self.hub.is_full:
            refused = _refusal("events", None, "fewer open streams of events; try again later", 503)
            refused.headers["Retry-After"] = _RETRY_AFTER
            return refused
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with self.hub.listen(symbol) as listener:
            health = self._health_document()
            if "snapshot" in request.query:  # created after the listener is registered, so that no event is lost
                is_forecast = symbol in self._settings.forecasting.symbols
                document = responses.snapshot(self.read_model, symbol, health, MAX_RECORDS, is_forecast=is_forecast)
                listener.offer(("snapshot", msgspec.json.encode(document)))
            else:
                listener.offer(("health", msgspec.json.encode(health)))
            try:
                async for data in listener.frames():
                    async with asyncio.timeout(_WRITE_S):
                        await response.write(data)
            except ConnectionResetError:
                log.debug("a listener of %s disconnected", symbol)
            except TimeoutError:
                log.debug("a listener of %s reads nothing", symbol)
                if request.transport is not None:
                    request.transport.abort()
        return response

    async def _unknown_path(self, request: web.Request) -> web.StreamResponse:
        raise _NotFoundError("path", request.path, "a path of docs/api.md")

    def _market(self, symbol: str) -> str:
        known = self.read_model.symbols
        if symbol.upper() not in known:
            raise _NotFoundError("symbol", symbol, f"one of {', '.join(known)}{close_matches(symbol, known)}")
        return symbol.upper()

    def _optional_market(self, request: web.Request) -> str | None:
        symbol = request.query.get("symbol")
        return None if symbol is None else self._market(symbol)


async def _with_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Add the security headers to every response of the server."""
    response.headers.update(_HEADERS)


def _with_json_errors(handler: Handler, endpoint: Endpoint | None = None) -> Handler:
    """Wrap a handler: check the query against the endpoint's parameters, and respond to errors with JSON."""

    async def respond(request: web.Request) -> web.StreamResponse:
        try:
            if endpoint is not None:
                _reject_unknown_parameters(request, endpoint.names)
            return await handler(request)
        except InvalidValueError as error:
            status = 404 if isinstance(error, _NotFoundError) else 400
            return _refusal(error.field, error.value, error.expected, status)

    return respond


def _refusal(field: str, value: str | None, expected: str, status: int) -> web.Response:
    texts = {"field": field, "value": value, "expected": expected}
    return _json({"error": {key: None if text is None else printable(text) for key, text in texts.items()}}, status)


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json", charset="utf-8"
    )


def _reject_unknown_parameters(request: web.Request, names: Sequence[str]) -> None:
    for name in request.query:
        if name not in names:
            expected = f"one of the parameters {', '.join(names)}" if names else "no parameter"
            raise InvalidValueError("query", name, expected)


def _whole_number(request: web.Request, name: str, maximum: int) -> int:
    text = request.query.get(name)
    if text is None:
        return maximum
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(maximum)) and 1 <= int(text) <= maximum):
        raise InvalidValueError(name, text, f"a whole number from 1 to {maximum}")
    return int(text)
