"""The views' HTTP side: handlers of `streams.views.openapi`'s routes on Faust's own web server, strict inputs, headers.

Everything is read-only. It must never compute what the documents say (`streams.views.responses`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from clients.clock import Clock
from config.settings import Settings
from marketdata.errors import InvalidValueError
from marketdata.records import Record, Tick
from marketdata.topics import TopicRole
from streams.views import openapi
from streams.views import responses as documents
from streams.views.access import guard
from streams.views.events import Hub
from streams.views.exposition import BoardCollector
from streams.views.follower import Follower
from streams.views.openapi import MOST_POINTS, MOST_RECORDS, Endpoint
from streams.views.read_model import Board
from streams.worker.supervise import forever

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
_HEALTH_S = 2.0
_PAUSE_S = 1.0  # before a part that failed starts again
_MARKETS_S = 1.0
_MARKETS_ROWS = 250  # in one event: some 9 kB, however many markets there are
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
    """What was asked for by name is not there."""


def attach(app: Any, settings: Settings, clock: Clock) -> "Views":
    """Add the dashboard and the API to a Faust application; its web server starts and ends them.

    Args:
        app: the Faust application, before its web server starts.
        settings: the tree of the worker.
        clock: event time; it may be not started yet (RuntimeError), which views show as unknown.
    """
    views = Views(settings, clock)
    views.add_to(app.web.web_app)
    forecast = frozenset(settings.forecasting.symbols)
    app.worker_state.metrics.registry.register(BoardCollector(views.board, views.now_ms, forecast))
    return views


class Views:
    """The board, its follower and the routes of one worker."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self.board = Board(settings.markets)
        self.hub = Hub()
        self.follower = Follower(settings, self.board, self._on_record, self.now_ms, self._resync)
        self._changed: dict[str, None] = {}  # in the order in which they changed
        self._tasks: list[asyncio.Task[None]] = []

    def add_to(self, server: web.Application) -> None:
        """Routes, the guard of all pages and start-up of an aiohttp application that is not running yet."""
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
            server.router.add_get(endpoint.path, _answered(handler, endpoint))
        server.router.add_get("/", _answered(self._page))
        server.router.add_get("/api/{name:.*}", _answered(self._nothing))
        server.router.add_get("/static/{name:.+}", _answered(self._static))
        server.on_startup.append(self._start)
        server.on_shutdown.append(self._stop)

    async def _start(self, _server: web.Application) -> None:
        parts = {
            "follower": self.follower.run,
            "health events": self._tell_health,
            "markets events": self._tell_markets,
        }
        self._tasks = [asyncio.create_task(forever(f"views: {name}", run, _PAUSE_S)) for name, run in parts.items()]

    async def _stop(self, _server: web.Application) -> None:
        """Faust's web server asks twice; the second time there is nothing left."""
        self.hub.close()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def now_ms(self) -> int | None:
        """Event time; None before the worker's clock runs."""
        try:
            return self._clock.now_ms()
        except RuntimeError:  # the worker has not started its clock yet
            return None

    # What is told to those who listen

    def _on_record(self, role: TopicRole, record: Record) -> None:
        if self.hub.is_idle:
            return
        if isinstance(record, Tick):
            self._changed[record.symbol] = None
            if self.hub.is_followed(record.symbol):
                self.hub.publish("tick", documents.tick_event(self.board, record), record.symbol)
        elif role is TopicRole.DEAD_LETTERS:
            self.hub.publish(_EVENT_NAMES[role], record)
        else:
            self.hub.publish(_EVENT_NAMES[role], record, record.symbol)

    def _resync(self) -> None:
        """All that listen fetch the documents again."""
        self.hub.publish("resync", {})

    async def _tell_markets(self) -> None:
        while True:
            await asyncio.sleep(_MARKETS_S)
            told = list(islice(self._changed, _MARKETS_ROWS))  # the others have their turn next
            for symbol in told:
                del self._changed[symbol]
            if told:
                self.hub.publish("markets", documents.summary(self.board, told))

    async def _tell_health(self) -> None:
        while True:
            if not self.hub.is_idle:
                self.hub.publish("health", self._health_document())
            await asyncio.sleep(_HEALTH_S)

    def _health_document(self) -> documents.Document:
        document = documents.health(self.board, self.follower.kafka, self._settings, self.now_ms())
        return document | {"plot": self._settings.forecasting.plot_path.is_file()}

    # Pages

    async def _page(self, request: web.Request) -> web.StreamResponse:
        _only(request, ())
        return web.FileResponse(STATIC / "index.html")

    async def _static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = (STATIC / name).resolve()
        if not path.is_relative_to(STATIC.resolve()) or not path.is_file():
            raise _NotFoundError("path", name, "a file of the dashboard")
        # aiohttp does not know .mjs everywhere, and browsers take a module only with this type.
        headers = {"Content-Type": "text/javascript; charset=utf-8"} if path.suffix in (".js", ".mjs") else {}
        return web.FileResponse(path, headers=headers)

    async def _markets(self, _request: web.Request) -> web.StreamResponse:
        return _json(documents.markets(self.board, self.now_ms()))

    async def _features(self, request: web.Request) -> web.StreamResponse:
        return _json(documents.features(self.board, self._known(request.match_info["symbol"])))

    async def _history(self, request: web.Request) -> web.StreamResponse:
        symbol = self._known(request.match_info["symbol"])
        return _json(documents.history(self.board, symbol, _whole(request, "points", MOST_POINTS)))

    async def _predictions(self, request: web.Request) -> web.StreamResponse:
        return _json(
            documents.predictions(self.board, self._maybe_known(request), _whole(request, "limit", MOST_RECORDS))
        )

    async def _scores(self, request: web.Request) -> web.StreamResponse:
        return _json(documents.scores(self.board, self._maybe_known(request), _whole(request, "limit", MOST_RECORDS)))

    async def _health(self, _request: web.Request) -> web.StreamResponse:
        return _json(self._health_document())

    async def _openapi(self, _request: web.Request) -> web.StreamResponse:
        return _json(openapi.document(with_token=self._settings.streams.web_token is not None))

    async def _plot(self, _request: web.Request) -> web.StreamResponse:
        path = self._settings.forecasting.plot_path
        if not path.is_file():
            raise _NotFoundError("plot", str(path.name), "the plot of a report; none was made yet")
        return web.FileResponse(path, headers={"Content-Type": "image/png"})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        symbol = self._maybe_known(request) or self.board.symbols[0]
        _whole(request, "snapshot", 1)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with self.hub.listen(symbol) as listener:
            health = self._health_document()
            if "snapshot" in request.query:  # made once the listener is there: no gap to the events
                is_forecast = symbol in self._settings.forecasting.symbols
                document = documents.snapshot(self.board, symbol, health, MOST_RECORDS, is_forecast=is_forecast)
                listener.offer(("snapshot", msgspec.json.encode(document)))
            else:
                listener.offer(("health", msgspec.json.encode(health)))
            try:
                async for data in listener.frames():
                    await response.write(data)
            except ConnectionResetError:
                log.debug("a listener of %s went away", symbol)
        return response

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        raise _NotFoundError("path", request.path, "a document of docs/api.md")

    def _known(self, symbol: str) -> str:
        if symbol not in self.board.markets:
            raise _NotFoundError("symbol", symbol, f"one of {', '.join(self.board.symbols)}")
        return symbol

    def _maybe_known(self, request: web.Request) -> str | None:
        symbol = request.query.get("symbol")
        return None if symbol is None else self._known(symbol)


async def _with_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Every answer of this server, whoever made it."""
    response.headers.update(_HEADERS)


def _answered(handler: Handler, endpoint: Endpoint | None = None) -> Handler:
    """The same handler with errors as JSON; an endpoint's query is held against its parameters first."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            if endpoint is not None:
                _only(request, endpoint.names)
            return await handler(request)
        except InvalidValueError as error:
            status = 404 if isinstance(error, _NotFoundError) else 400
            return _refusal(error.field, error.value, error.expected, status)

    return answer


def _refusal(field: str, value: str | None, expected: str, status: int) -> web.Response:
    return _json({"error": {"field": field, "value": value, "expected": expected}}, status)


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json", charset="utf-8"
    )


def _only(request: web.Request, names: Sequence[str]) -> None:
    for name in request.query:
        if name not in names:
            expected = f"a parameter out of {', '.join(names)}" if names else "no parameter"
            raise InvalidValueError("query", name, expected)


def _whole(request: web.Request, name: str, most: int) -> int:
    text = request.query.get(name)
    if text is None:
        return most
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
        raise InvalidValueError(name, text, f"a whole number from 1 to {most}")
    return int(text)
