"""An aiohttp server that answers every request with the same bytes: the upper limit for an aiohttp server."""

import argparse
import sys
from pathlib import Path

from aiohttp import web


def main(argv: list[str]) -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--body", type=Path, required=True)
    options = parser.parse_args(argv)
    body = options.body.read_bytes()

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/", answer)
    web.run_app(app, host="127.0.0.1", port=options.port, print=None, access_log=None)


if __name__ == "__main__":
    main(sys.argv[1:])
