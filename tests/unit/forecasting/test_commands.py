"""Markets on the command line of the forecasts."""

from argparse import Namespace

import pytest

from config import Settings
from forecasting import commands
from marketdata.errors import ArgumentError
from tests.support.stack import settings_with


def test_a_market_is_given_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted: list[tuple[str, ...]] = []

    def predict(_settings: Settings, symbols: tuple[str, ...]) -> int:
        predicted.append(symbols)
        return 0

    monkeypatch.setattr(commands, "_predict", predict)
    assert commands.run(Namespace(command="predict", symbol=["btc-usd", "Eth-Usd"]), settings_with({})) == 0
    assert predicted == [("BTC-USD", "ETH-USD")]


@pytest.mark.parametrize("command", ["predict", "train", "serve", "report"])
def test_an_unknown_market_is_refused_with_close_matches(command: str) -> None:
    symbol = "BTC-USDT" if command == "report" else ["BTC-USDT"]
    with pytest.raises(ArgumentError, match=r"symbol: 'BTC-USDT': expected .*; close matches: BTC-USD, ETH-USD"):
        commands.run(Namespace(command=command, symbol=symbol, models=None), settings_with({}))
