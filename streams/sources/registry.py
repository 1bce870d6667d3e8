"""Build the sources that the settings enable, each with its HTTP client and its retry policy."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import httpx

from clients.proxies import find_proxy, open_client
from config.settings import Settings
from exchanges import coingecko
from exchanges.binance import endpoints as binance
from exchanges.binance.resolver import SymbolResolver
from exchanges.binance.rest import Binance
from exchanges.binance.stream import BinanceStream
from exchanges.coingecko import CoinGecko
from exchanges.http import JsonClient
from exchanges.interface import CandleSource, QuoteSource, StreamSource
from exchanges.retry_policy import RetryPolicy
from marketdata.errors import RetryableSourceError
from marketdata.vocabulary import FeedMode
from streams.metrics import Metrics

_CONNECTIONS = 16


@dataclass(slots=True)
class Exchanges:
    """The sources of one worker; `disabled` names the sources that the settings disable."""

    sources: list[QuoteSource]
    candles: CandleSource | None
    retry_policies: Mapping[str, RetryPolicy]
    disabled: list[str]
    clients: list[httpx.AsyncClient]
    stream: StreamSource | None = None
    resolver: SymbolResolver | None = None

    async def resolve(self) -> None:
        """Wait until the exchange's symbols of the markets are known, or its list is not available."""
        if self.resolver is not None:
            with suppress(RetryableSourceError):  # each poll waits again
                await self.resolver.ensure()

    async def close(self) -> None:
        """Close the connections."""
        if self.resolver is not None:
            await self.resolver.close()
        for client in self.clients:
            await client.aclose()


def build_exchanges(settings: Settings, metrics: Metrics, real_seconds: Callable[[float], float]) -> Exchanges:
    """All enabled sources; `real_seconds` converts seconds of exchange time, such as a Retry-After.

    Raises:
        ConfigurationError: the environment names a proxy without a valid address.
    """
    exchanges = Exchanges([], None, {}, [], [])
    retry_policies: dict[str, RetryPolicy] = {}
    exchanges.retry_policies = retry_policies

    def http(
        name: str,
        base_url: str,
        timeout_s: float,
        *,
        headers: Mapping[str, str] | None = None,
        on_headers: Callable[[Mapping[str, str]], None] = lambda _headers: None,
    ) -> JsonClient:
        client = open_client(settings, base_url, timeout_s, httpx.Limits(max_connections=_CONNECTIONS))
        exchanges.clients.append(client)
        retry_policies[name] = RetryPolicy(
            name,
            metrics=metrics.source(name),
            real_seconds=real_seconds,
        )
        return JsonClient(
            name,
            base_url,
            client,
            headers=headers,
            on_request=metrics.source_requests.labels(name).inc,
            on_headers=on_headers,
        )

    def publish_weight(headers: Mapping[str, str]) -> None:
        used = binance.used_weight(headers)
        if used is not None:
            metrics.source_weight.labels(binance.NAME).set(used)

    if settings.coingecko.enabled:
        own = settings.coingecko
        key = {} if own.api_key is None else {coingecko.KEY_HEADERS[own.plan]: own.api_key.get_secret_value()}
        client = http(coingecko.NAME, own.base_url, own.timeout_s, headers=key)
        exchanges.sources.append(CoinGecko(client, own.calls_per_minute, own.calls_per_month))
    else:
        exchanges.disabled.append(coingecko.NAME)
    if settings.binance.enabled:
        spot = settings.binance
        client = http(binance.NAME, spot.base_url, spot.timeout_s, on_headers=publish_weight)

        def on_unknown(symbol: str) -> None:
            metrics.source_unknown.labels(binance.NAME, symbol).inc()

        markets = settings.parsed_markets
        resolver = SymbolResolver(client, markets, on_unknown=on_unknown, real_seconds=real_seconds)
        exchanges.resolver = resolver
        source = Binance(client, spot.weight_per_minute, on_unknown, resolver=resolver)
        exchanges.sources.append(source)
        exchanges.candles = source
        if settings.streams.feed != FeedMode.POLL:
            find_proxy(settings, spot.stream_url)  # refuses a wrong address now, not when the stream starts
            exchanges.stream = BinanceStream(spot.stream_url, markets, resolver.symbols)
    else:
        exchanges.disabled.append(binance.NAME)
    return exchanges
