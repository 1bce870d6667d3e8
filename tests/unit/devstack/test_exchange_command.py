"""The local stack starts the simulated exchange with the markets of the settings."""

from typing import Any

import pytest

from devstack.stack import exchange_command
from simulator import cli
from tests.support.stack import settings_with


@pytest.mark.parametrize(("usd_asset", "symbol"), [("USDT", "WUSDT"), ("FDUSD", "WFDUSD"), ("USD", "WUSDT")])
def test_the_exchange_lists_the_markets_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, usd_asset: str, symbol: str
) -> None:
    started: list[Any] = []

    async def run(state: Any, *_address: Any) -> None:
        started.append(state)

    monkeypatch.setattr(cli, "_run", run)
    settings = settings_with(
        {
            "BDI_MARKETS": "BTC-USD,W-USD,1INCH-TRY",
            "BDI_COINGECKO__COIN_IDS": '{"W": "wormhole"}',
            "BDI_BINANCE__USD_ASSET": usd_asset,
        }
    )
    assert cli.main(exchange_command(settings)[4:]) == 0
    (state,) = started
    assert {symbol, "1INCHTRY", "BTCUSDT", "BTCEUR"} <= set(state.market.symbols)
    assert state.coin_ids == {"W": "wormhole"}
