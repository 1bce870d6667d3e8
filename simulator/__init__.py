"""The simulated exchange: a server on loopback that speaks Binance and CoinGecko from stored history.

It stands at the border of the product, so it may derive what the history lacks (quotes, trades, supplies), by the
stated, seeded rules of `derive`. It never imports streams, batch, forecasting or config: all comes by arguments.
"""
