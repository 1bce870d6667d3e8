"""The codec on one core, compared with the standard library's JSON on the same bytes."""

import json

from benchmarks.feed import MARKETS, START_MS, full_tick
from benchmarks.report import Bench, Row, median_seconds
from marketdata.codec import decode, encode
from marketdata.records import Tick

N = 20_000


def rows(_bench: Bench) -> list[Row]:
    """Measure encoding and decoding of a full tick."""
    ticks = [full_tick(index % MARKETS, START_MS + index * 10, index) for index in range(N)]
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
