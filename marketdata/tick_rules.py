"""The rules of a clean tick: a table, and the clock.

To add a rule, add it to `RULES` and to `holds_all`; a property test checks that both are equivalent.
"""

import re
from collections.abc import Mapping
from types import SimpleNamespace

from marketdata.bounds import MAX_AMOUNT, MAX_COUNT, MAX_PRICE, MIN_PRICE
from marketdata.errors import DecodeError
from marketdata.records import Tick
from marketdata.rules import (
    SYMBOL,
    AnyPresent,
    Compares,
    Ends,
    Joins,
    Repeats,
    Rule,
    amount_rules,
    compared,
    count_rules,
    price_rules,
    validate,
)
from marketdata.times import to_rfc3339
from marketdata.vocabulary import Reason

_is_symbol = re.compile(SYMBOL.pattern).fullmatch

RULES: tuple[Rule, ...] = (
    SYMBOL,
    Ends("quote", Reason.QUOTE, "the symbol's currency", "symbol", "-"),
    Joins("tick_id", Reason.TICK_ID, "symbol|timestamp", "symbol", "|", "timestamp"),
    Repeats("price_usd", Reason.PRICE_ALIAS, "the price where the quote is USD, else null", "price", "quote", "USD"),
    *price_rules("price"),
    *price_rules("bid_price"),
    *price_rules("ask_price"),
    compared("ask_price", Reason.CROSSED_QUOTE, ">=", "bid_price"),
    *amount_rules("bid_qty"),
    *amount_rules("ask_qty"),
    *price_rules("high_24h"),
    *price_rules("low_24h"),
    compared("high_24h", Reason.CROSSED_RANGE, ">=", "low_24h"),
    *amount_rules("volume_24h"),
    *amount_rules("market_cap"),
    *count_rules("n_updates"),
    *count_rules("n_trades"),
    *amount_rules("traded_volume"),
    *price_rules("vwap"),
    AnyPresent("price", Reason.NO_DATA, "a price, or a bid and an ask", "bid_price"),
    AnyPresent("price", Reason.NO_DATA, "a price, or a bid and an ask", "ask_price"),
)

_NUMBER_RULES = tuple(rule for rule in RULES if isinstance(rule, Compares))


def holds_all(tick: Tick) -> bool:
    """Return whether a tick satisfies every rule of the table, in one expression.

    Nearly all ticks are clean, and one call per rule costs more than decoding the tick. Only the table reports which
    rule is violated.
    """
    price, bid, ask = tick.price, tick.bid_price, tick.ask_price
    low, high, quote = tick.low_24h, tick.high_24h, tick.quote
    return (
        (MIN_PRICE <= price <= MAX_PRICE if price is not None else bid is not None and ask is not None)
        and (bid is None or MIN_PRICE <= bid <= MAX_PRICE)
        and (ask is None or (MIN_PRICE if bid is None else bid) <= ask <= MAX_PRICE)
        and (tick.bid_qty is None or 0 <= tick.bid_qty <= MAX_AMOUNT)
        and (tick.ask_qty is None or 0 <= tick.ask_qty <= MAX_AMOUNT)
        and (low is None or MIN_PRICE <= low <= MAX_PRICE)
        and (high is None or (MIN_PRICE if low is None else low) <= high <= MAX_PRICE)
        and (tick.volume_24h is None or 0 <= tick.volume_24h <= MAX_AMOUNT)
        and (tick.market_cap is None or 0 <= tick.market_cap <= MAX_AMOUNT)
        and (tick.n_updates is None or 0 <= tick.n_updates <= MAX_COUNT)
        and (tick.n_trades is None or 0 <= tick.n_trades <= MAX_COUNT)
        and (tick.traded_volume is None or 0 <= tick.traded_volume <= MAX_AMOUNT)
        and (tick.vwap is None or MIN_PRICE <= tick.vwap <= MAX_PRICE)
        and tick.price_usd == (price if quote == "USD" else None)
        and tick.tick_id == f"{tick.symbol}|{tick.timestamp}"
        and tick.symbol.endswith(f"-{quote}")
        and _is_symbol(tick.symbol) is not None
    )


def check(tick: Tick, latest_ms: int | None = None) -> int:
    """Check a tick against the rules and the clock, and return its event time in ms.

    Args:
        tick: a decoded tick.
        latest_ms: the latest valid event time: the clock plus the allowed advance; None: not checked.

    Raises:
        DecodeError: the first rule that the tick violates, with its reason code.
    """
    if not holds_all(tick):
        validate(tick, RULES)
    timestamp_ms = tick.timestamp_ms
    if latest_ms is not None and timestamp_ms > latest_ms:
        raise ahead_of_clock(tick.timestamp, latest_ms)
    return timestamp_ms


def check_numbers(fields: Mapping[str, object]) -> None:
    """Check the numbers that one source contributes to a tick against the rules of these fields.

    Args:
        fields: of `Tick`, by name; absent ones count as null.

    Raises:
        DecodeError: the first rule that a field violates.
    """
    numbers = {**dict.fromkeys(rule.field for rule in _NUMBER_RULES), **fields}
    validate(SimpleNamespace(**numbers), _NUMBER_RULES)  # type: ignore[arg-type]  # it has the rules' fields


def ahead_of_clock(timestamp: str, latest_ms: int) -> DecodeError:
    """Return the error of a tick whose time is after `latest_ms`."""
    return DecodeError(Reason.FUTURE, "timestamp", timestamp, f"at most {to_rfc3339(latest_ms)}, by the clock")
