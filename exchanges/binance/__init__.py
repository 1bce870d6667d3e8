"""Binance spot: REST quotes and klines, and WebSocket streams."""
