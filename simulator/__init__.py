"""The simulated exchange: a local server that speaks the Binance and CoinGecko APIs from stored candles.

Stored pairs are listed, and any other market by a seeded rule (`listing`). Data that the candles lack (quotes, trades,
supplies) is derived by the seeded rules of `derive`. The package reads no settings: everything is passed as arguments.
"""
