"""What a tick must satisfy to be called clean: one table of rules, each with the field and the reason code.

Pure. Docs and dead letters use the reason codes; a rule is added here and nowhere else.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from marketdata.bounds import LEAST_PRICE, MOST_AMOUNT, MOST_PRICE
from marketdata.candle_rules import FUTURE_REASON
from marketdata.errors import DecodeError
from marketdata.records import Tick

_SYMBOL = re.compile(r"[A-Z0-9]{2,12}-[A-Z]{3,5}")


@dataclass(frozen=True, slots=True)
class Rule:
    """A tick is refused with `reason` when `holds` is false; `expected` completes "field: value: expected …"."""

    field: str
    reason: str
    expected: str
    holds: Callable[[Tick], bool]


def _positive(field: str) -> Rule:
    def holds(tick: Tick) -> bool:
        value = getattr(tick, field)
        return value is None or value > 0

    return Rule(field, "not_positive", "a number above 0, or null", holds)


def _not_negative(field: str) -> Rule:
    def holds(tick: Tick) -> bool:
        value = getattr(tick, field)
        return value is None or value >= 0

    return Rule(field, "negative", "a number of at least 0, or null", holds)


def _price(field: str) -> tuple[Rule, Rule]:
    def holds(tick: Tick) -> bool:
        value = getattr(tick, field)
        return value is None or LEAST_PRICE <= value <= MOST_PRICE

    return _positive(field), Rule(field, "absurd", f"a price of {LEAST_PRICE:g} to {MOST_PRICE:g}, or null", holds)


def _amount(field: str) -> tuple[Rule, Rule]:
    def holds(tick: Tick) -> bool:
        value = getattr(tick, field)
        return value is None or value <= MOST_AMOUNT

    return _not_negative(field), Rule(field, "absurd", f"at most {MOST_AMOUNT:g}, or null", holds)


def _ordered(low: float | None, high: float | None) -> bool:
    return low is None or high is None or low <= high


RULES: tuple[Rule, ...] = (
    Rule("symbol", "symbol", "BASE-QUOTE in upper case", lambda t: _SYMBOL.fullmatch(t.symbol) is not None),
    Rule("quote", "quote", "the symbol's currency", lambda t: t.symbol.endswith(f"-{t.quote}")),
    Rule("tick_id", "tick_id", "symbol|timestamp", lambda t: t.tick_id == f"{t.symbol}|{t.timestamp}"),
    Rule(
        "price_usd",
        "price_alias",
        "the price where the quote is USD, else null",
        lambda t: t.price_usd == (t.price if t.quote == "USD" else None),
    ),
    *_price("price"),
    *_price("bid_price"),
    *_price("ask_price"),
    Rule("ask_price", "crossed_quote", "ask_price of at least bid_price", lambda t: _ordered(t.bid_price, t.ask_price)),
    *_amount("bid_qty"),
    *_amount("ask_qty"),
    *_price("high_24h"),
    *_price("low_24h"),
    Rule("high_24h", "crossed_range", "high_24h of at least low_24h", lambda t: _ordered(t.low_24h, t.high_24h)),
    *_amount("volume_24h"),
    *_amount("market_cap"),
    *_amount("n_updates"),
    *_amount("n_trades"),
    *_amount("traded_volume"),
    *_price("vwap"),
    Rule(
        "price",
        "no_data",
        "a price, or a bid and an ask",
        lambda t: t.price is not None or (t.bid_price is not None and t.ask_price is not None),
    ),
)


def holds_all(tick: Tick) -> bool:
    """Whether every rule holds: the table in one expression.

    Nearly all ticks are clean, and a call a rule costs more than decoding the tick. What is wrong is named by the table
    alone, and a property test holds this against it.
    """
    price, bid, ask = tick.price, tick.bid_price, tick.ask_price
    low, high, quote = tick.low_24h, tick.high_24h, tick.quote
    return (
        (LEAST_PRICE <= price <= MOST_PRICE if price is not None else bid is not None and ask is not None)
        and (bid is None or LEAST_PRICE <= bid <= MOST_PRICE)
        and (ask is None or (LEAST_PRICE if bid is None else bid) <= ask <= MOST_PRICE)
        and (tick.bid_qty is None or 0 <= tick.bid_qty <= MOST_AMOUNT)
        and (tick.ask_qty is None or 0 <= tick.ask_qty <= MOST_AMOUNT)
        and (low is None or LEAST_PRICE <= low <= MOST_PRICE)
        and (high is None or (LEAST_PRICE if low is None else low) <= high <= MOST_PRICE)
        and (tick.volume_24h is None or 0 <= tick.volume_24h <= MOST_AMOUNT)
        and (tick.market_cap is None or 0 <= tick.market_cap <= MOST_AMOUNT)
        and (tick.n_updates is None or 0 <= tick.n_updates <= MOST_AMOUNT)
        and (tick.n_trades is None or 0 <= tick.n_trades <= MOST_AMOUNT)
        and (tick.traded_volume is None or 0 <= tick.traded_volume <= MOST_AMOUNT)
        and (tick.vwap is None or LEAST_PRICE <= tick.vwap <= MOST_PRICE)
        and tick.price_usd == (price if quote == "USD" else None)
        and tick.tick_id == f"{tick.symbol}|{tick.timestamp}"
        and _names(tick.symbol, quote)
    )


@lru_cache(maxsize=16_384)
def _names(symbol: str, quote: str) -> bool:
    return _SYMBOL.fullmatch(symbol) is not None and symbol.endswith(f"-{quote}")


def check(tick: Tick, timestamp_ms: int, key: bytes | None, now_ms: int, max_future_ms: int) -> None:
    """Hold a tick against its key, the rules and the clock.

    Raises:
        DecodeError: the first rule that does not hold, with its reason code.
    """
    if key != tick.symbol.encode():
        raise DecodeError("key", "key", key, f"the symbol {tick.symbol!r} as UTF-8")
    if not holds_all(tick):
        rule = next(rule for rule in RULES if not rule.holds(tick))
        raise DecodeError(rule.reason, rule.field, getattr(tick, rule.field), rule.expected)
    if timestamp_ms > now_ms + max_future_ms:
        raise DecodeError(FUTURE_REASON, "timestamp", tick.timestamp, f"at most {max_future_ms} ms after the clock")
