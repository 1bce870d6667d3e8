"""The views' HTTP side: routes on Faust's own web server, strict inputs, and what starts and ends with that server.

Everything is read-only. It must never compute what the documents say (`streams.views.documents`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from config.clock import Clock
from config.settings import Settings
from marketdata.errors import InvalidValueError
from marketdata.records import Record, Tick
from marketdata.topics import TopicRole
from streams.views import documents
from streams.views.board import Board
from streams.views.events import Hub
from streams.views.follower import Follower

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
_HEALTH_S = 2.0
_MARKETS_S = 1.0
_LIMIT = 500
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
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
    return views


class Views:
    """The board, its follower and the routes of one worker."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self.board = Board(settings.markets)
        self.hub = Hub()
        self.follower = Follower(settings, self.board, self._on_record, self._now_ms)
        self._changed: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def add_to(self, server: web.Application) -> None:
        """Routes and start-up of an aiohttp application that is not running yet."""
        for path, handler in (
            ("/", self._page),
            ("/api/markets", self._markets),
            ("/api/markets/{symbol}/features", self._features),
            ("/api/markets/{symbol}/history", self._history),
            ("/api/predictions", self._predictions),
            ("/api/scores", self._scores),
            ("/api/health", self._health),
            ("/api/events", self._events),
            ("/api/plot.png", self._plot),
            ("/api/{name:.*}", self._nothing),
            ("/static/{name:.+}", self._static),
        ):
            server.router.add_get(path, _answered(handler))
        server.on_startup.append(self._start)
        server.on_shutdown.append(self._stop)

    async def _start(self, _server: web.Application) -> None:
        self._tasks = [asyncio.create_task(run()) for run in (self.follower.run, self._tell_health, self._tell_markets)]
        for task in self._tasks:
            task.add_done_callback(_report)

    async def _stop(self, _server: web.Application) -> None:
        """Faust's web server asks twice; the second time there is nothing left."""
        self.hub.close()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _now_ms(self) -> int | None:
        try:
            return self._clock.now_ms()
        except RuntimeError:  # the worker has not started its clock yet
            return None

    # What is told to those who listen

    def _on_record(self, role: TopicRole, record: Record) -> None:
        if self.hub.is_idle:
            return
        if isinstance(record, Tick):
            row = documents.market_row(self.board, record.symbol)
            self._changed.add(record.symbol)
            self.hub.publish("tick", documents.tick_event(record, row), record.symbol)
        elif role is TopicRole.DEAD_LETTERS:
            self.hub.publish(_EVENT_NAMES[role], record)
        else:
            self.hub.publish(_EVENT_NAMES[role], record, record.symbol)

    async def _tell_markets(self) -> None:
        while True:
            await asyncio.sleep(_MARKETS_S)
            changed, self._changed = self._changed, set()
            if changed:
                rows = [documents.market_row(self.board, symbol) for symbol in sorted(changed)]
                self.hub.publish("markets", {"markets": rows})

    async def _tell_health(self) -> None:
        while True:
            if not self.hub.is_idle:
                self.hub.publish("health", self._health_document())
            await asyncio.sleep(_HEALTH_S)

    def _health_document(self) -> documents.Document:
        document = documents.health(self.board, self.follower.kafka, self._settings, self._now_ms())
        return document | {"plot": self._settings.forecasting.plot_path.is_file()}

    # Pages

    async def _page(self, request: web.Request) -> web.StreamResponse:
        _only(request)
        return web.FileResponse(STATIC / "index.html")

    async def _static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = (STATIC / name).resolve()
        if not path.is_relative_to(STATIC.resolve()) or not path.is_file():
            raise _NotFoundError("path", name, "a file of the dashboard")
        # aiohttp does not know .mjs everywhere, and browsers take a module only with this type.
        headers = {"Content-Type": "text/javascript; charset=utf-8"} if path.suffix in (".js", ".mjs") else {}
        return web.FileResponse(path, headers=headers)

    async def _markets(self, request: web.Request) -> web.StreamResponse:
        _only(request)
        return _json(documents.markets(self.board, self._now_ms()))

    async def _features(self, request: web.Request) -> web.StreamResponse:
        _only(request)
        return _json(documents.features(self.board, self._known(request.match_info["symbol"])))

    async def _history(self, request: web.Request) -> web.StreamResponse:
        symbol = self._known(request.match_info["symbol"])
        _only(request, "points")
        return _json(documents.history(self.board, symbol, _whole(request, "points", self.board.points)))

    async def _predictions(self, request: web.Request) -> web.StreamResponse:
        _only(request, "symbol", "limit")
        return _json(documents.predictions(self.board, self._maybe_known(request), _whole(request, "limit", _LIMIT)))

    async def _scores(self, request: web.Request) -> web.StreamResponse:
        _only(request, "symbol", "limit")
        return _json(documents.scores(self.board, self._maybe_known(request), _whole(request, "limit", _LIMIT)))

    async def _health(self, request: web.Request) -> web.StreamResponse:
        _only(request)
        return _json(self._health_document())

    async def _plot(self, request: web.Request) -> web.StreamResponse:
        _only(request)
        path = self._settings.forecasting.plot_path
        if not path.is_file():
            raise _NotFoundError("plot", str(path.name), "the plot of a report; none was made yet")
        return web.FileResponse(path, headers={"Content-Type": "image/png"})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        _only(request, "symbol")
        symbol = self._maybe_known(request) or self.board.symbols[0]
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        with self.hub.listen(symbol) as listener:
            listener.offer(("health", msgspec.json.encode(self._health_document())))
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


def _answered(handler: Handler) -> Handler:
    """The same handler with our headers, and errors as JSON."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            response = await handler(request)
        except InvalidValueError as error:
            document = {"error": {"field": error.field, "value": error.value, "expected": error.expected}}
            response = _json(document, 404 if isinstance(error, _NotFoundError) else 400)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    return answer


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json", charset="utf-8"
    )


def _only(request: web.Request, *names: str) -> None:
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


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a part of the views ended: %r", error, exc_info=error)
