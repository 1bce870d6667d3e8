"""CoinGecko v3: price, volume, market cap and the range of the day of all coins, one call per currency and 250 coins.

Wire format: /coins/markets returns an array of objects with JSON numbers, nearly all nullable; `last_updated` is the
time of the data. The service caches for about a minute. An unknown id is absent from the array.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from exchanges.fields import array_of_objects, index_by, nullable_number
from exchanges.grouping import split_by_size
from exchanges.http import JsonClient
from exchanges.interface import Budget, Cost, PollResult, Quote
from marketdata.errors import InvalidValueError, RetryableSourceError
from marketdata.markets import Market
from marketdata.times import from_rfc3339, to_rfc3339
from marketdata.vocabulary import SourceStatus

NAME = "coingecko"
IDS_PER_CALL = 250
KEY_HEADERS = {"demo": "x-cg-demo-api-key", "pro": "x-cg-pro-api-key"}

_MARKETS = "/coins/markets"
_FIELDS = {
    "price": "current_price",
    "volume_24h": "total_volume",
    "market_cap": "market_cap",
    "price_change_24h": "price_change_24h",
    "price_change_percentage_24h": "price_change_percentage_24h",
    "high_24h": "high_24h",
    "low_24h": "low_24h",
}


class CoinGecko:
    """Prices aggregated over all exchanges."""

    name = NAME

    def __init__(self, http: JsonClient, calls_per_minute: int, calls_per_month: int | None) -> None:
        self._http = http
        self.budget = Budget(calls_per_minute=calls_per_minute, calls_per_month=calls_per_month)

    def poll_cost(self, markets: Sequence[Market]) -> Cost:
        return Cost(calls=len(self._calls(markets)))

    async def poll(self, markets: Sequence[Market], timeout_s: float) -> PollResult:
        """price, volume_24h, market_cap, changes and range of the day, trade_timestamp (`last_updated`).

        Markets without a coin id are not requested; their status is `no_coin_id`.
        """
        quotes: dict[str, Quote] = {}
        invalid: dict[str, InvalidValueError] = {}
        calls = self._calls(markets)
        responses = await asyncio.gather(*(self._call(currency, group, timeout_s) for currency, group in calls))
        for (_currency, group), rows in zip(calls, responses, strict=True):
            for market in group:
                row = rows.get(str(market.coingecko_id))
                if row is None:
                    continue
                try:
                    quotes[market.symbol] = _quote(row)
                except InvalidValueError as error:
                    invalid[market.symbol] = error
        absent = {market.symbol: SourceStatus.NO_COIN_ID for market in markets if market.coingecko_id is None}
        return PollResult(quotes, invalid, absent=absent)

    async def _call(self, currency: str, markets: Sequence[Market], timeout_s: float) -> dict[Any, Mapping[str, Any]]:
        ids = dict.fromkeys(str(market.coingecko_id) for market in markets)  # BTC-USD and BTC-USDT have one id
        params = _params(currency, ",".join(ids))
        payload, _headers = await self._http.get(_MARKETS, params, timeout_s)
        try:
            return index_by(array_of_objects(payload, "markets"), "id")
        except InvalidValueError as error:
            raise RetryableSourceError(f"{NAME}: {error}", SourceStatus.BAD_PAYLOAD) from error

    def _calls(self, markets: Sequence[Market]) -> list[tuple[str, list[Market]]]:
        """Currency and markets of each call; one call names at most 250 ids, and its URL is limited."""
        by_currency: defaultdict[str, list[Market]] = defaultdict(list)
        for market in markets:
            if market.coingecko_id is not None:
                by_currency[market.coingecko_currency].append(market)
        return [
            (currency, part)
            for currency, group in by_currency.items()
            for part in split_by_size(group, _id_bytes, self._http.room(_MARKETS, _params(currency, "")), IDS_PER_CALL)
        ]


def _params(currency: str, ids: str) -> dict[str, str]:
    return {
        "vs_currency": currency,
        "ids": ids,
        "order": "market_cap_desc",
        "per_page": str(IDS_PER_CALL),
        "page": "1",
        "sparkline": "false",
    }


def _id_bytes(market: Market) -> int:
    return len(quote(f"{market.coingecko_id},", safe=""))


def _quote(row: Mapping[str, Any]) -> Quote:
    fields: dict[str, float | str | None] = {name: nullable_number(row, field) for name, field in _FIELDS.items()}
    updated = row.get("last_updated")
    observed_at_ms = None if updated is None else from_rfc3339(updated, "last_updated")
    fields["trade_timestamp"] = None if observed_at_ms is None else to_rfc3339(observed_at_ms)
    return Quote(fields, observed_at_ms)
