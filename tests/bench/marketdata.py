"""The codec and the rolling features, one core: against the standard library's JSON on the same bytes."""

import json

from marketdata.codec import decode, encode
from marketdata.records import SourceState, Tick
from marketdata.times import to_rfc3339
from tests.bench.report import Row, median_seconds

N = 20_000


def _tick(index: int) -> Tick:
    symbol = f"M{index % 100:03d}-USD"
    timestamp = to_rfc3339(1_722_816_000_000 + index * 10)
    state = SourceState(status="ok", observed_at=timestamp, received_at=timestamp, staleness_ms=0)
    bid = 60_000 + index % 977 * 0.01
    return Tick(
        symbol=symbol,
        tick_id=Tick.make_id(symbol, timestamp),
        timestamp=timestamp,
        quote="USD",
        price=bid,
        price_usd=bid,
        volume_24h=1.5e10,
        market_cap=1.2e12,
        price_change_24h=-12.5,
        price_change_percentage_24h=-0.2,
        high_24h=6.1e4,
        low_24h=5.9e4,
        trade_timestamp=timestamp,
        bid_price=bid,
        bid_qty=1.25,
        ask_price=bid + 0.5,
        ask_qty=2.5,
        sources={"binance": state, "coingecko": state},
    )


def rows() -> list[Row]:
    """Encode and decode of a full tick."""
    ticks = [_tick(index) for index in range(N)]
    wire = [encode(tick) for tick in ticks]
    decode_s = median_seconds(lambda: [decode(Tick, payload) for payload in wire]) / N
    encode_s = median_seconds(lambda: [encode(tick) for tick in ticks]) / N
    json_s = median_seconds(lambda: [json.loads(payload) for payload in wire]) / N
    peer = "json.loads, unchecked"
    return [
        Row("bytes a tick", float(len(wire[0])), "B"),
        Row("strict decode", decode_s * 1e6, "µs/tick", peer, decode_s / json_s),
        Row("strict encode", encode_s * 1e6, "µs/tick"),
        Row(peer, json_s * 1e6, "µs/tick"),
    ]
