"""The views without the worker's agents, to measure their cost separately."""

from aiohttp import web

from clients.clock import SystemClock
from config import load_settings
from streams.views.pages import Views


def main() -> None:
    settings = load_settings()
    server = web.Application()
    Views(settings, SystemClock()).add_to(server)
    web.run_app(server, host=settings.streams.web_host, port=settings.streams.web_port, access_log=None, print=None)


if __name__ == "__main__":
    main()
