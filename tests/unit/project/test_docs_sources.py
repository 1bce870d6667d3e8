"""The exchange that docs/sources.md adds step by step works as it stands there."""

import re
from typing import Any

import httpx
import pytest
from aiohttp import web

from exchanges.http import JsonClient
from exchanges.interface import Cost, QuoteSource
from marketdata.errors import RetryableSourceError
from marketdata.markets import Market
from streams.sources.poll_budget import exceeded
from tests.support.paths import DOCS

DOCUMENT = DOCS / "sources.md"
MARKETS = [Market("BTC", "USD"), Market("ETH", "USD"), Market("XRP", "EUR")]
ROWS: list[dict[str, str]] = [
    {"pair": "BTC/USD", "bid": "50000.1", "ask": "50000.2", "timestamp": "1722816000"},
    {"pair": "ETH/USD", "bid": "soon", "ask": "3000", "timestamp": "1722816000"},
]


def documented() -> type[Any]:
    [code] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    module: dict[str, Any] = {"__name__": "bitstamp"}
    exec(compile(code, str(DOCUMENT), "exec"), module)
    found: type[Any] = module["Bitstamp"]
    return found


@pytest.mark.parametrize("rows", [ROWS, {"error": "no"}])
async def test_the_documented_exchange(rows: Any) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(rows)

    app = web.Application()
    app.router.add_get("/api/v2/ticker/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with httpx.AsyncClient(trust_env=False) as client:
            source: QuoteSource = documented()(JsonClient("bitstamp", url, client), 1)
            assert source.poll_cost(MARKETS) == Cost(calls=1)
            assert len(exceeded(source.name, source.budget, source.poll_cost(MARKETS), 30.0)) == 1
            if rows is not ROWS:
                with pytest.raises(RetryableSourceError, match="bitstamp"):
                    await source.poll(MARKETS, 5.0)
                return
            result = await source.poll(MARKETS, 5.0)
    finally:
        await runner.cleanup()
    assert result.quotes["BTC-USD"].fields == {"bid_price": 50000.1, "ask_price": 50000.2}
    assert result.quotes["BTC-USD"].observed_at_ms == 1_722_816_000_000
    assert set(result.quotes) == {"BTC-USD"}
    assert set(result.invalid) == {"ETH-USD"}
