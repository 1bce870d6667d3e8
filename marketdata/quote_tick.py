"""The part of a clean tick that the rolling features need, and a fast decoder for it."""

import msgspec


class QuoteTick(msgspec.Struct, frozen=True):
    """Quote and trades of a clean tick. The decoder skips the other fields, which the clean agent has validated."""

    symbol: str
    timestamp: str
    bid_price: float | None = None
    bid_qty: float | None = None
    ask_price: float | None = None
    ask_qty: float | None = None
    traded_volume: float | None = None
    vwap: float | None = None

    @property
    def traded_value(self) -> float | None:
        """The traded volume in the quote currency; 0 without trades, None if trades are unknown."""
        if not self.traded_volume or self.vwap is None:
            return self.traded_volume
        return self.traded_volume * self.vwap


decode_quote = msgspec.json.Decoder(QuoteTick).decode
