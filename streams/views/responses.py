"""The JSON responses of /api, computed from the read model: plain dicts, times in RFC 3339, prices in quote currency.

docs/api.md describes every field. `now_ms` is event time, None while unknown.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from clients.clock import clock_speed
from config.settings import Settings
from exchanges.refusals import Pause
from marketdata.enrichment import mid_price, spread_bps
from marketdata.records import Prediction, Score, Tick
from marketdata.times import from_rfc3339, to_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import SourceStatus, stale_flag
from streams.views import forecast_health
from streams.views.read_model import KafkaView, MarketView, ReadModel, TickPoint, newest_first

Document = dict[str, Any]

_PARTS = (
    (TopicRole.TICKS_CLEAN, "Ticks", "collected and cleaned quotes"),
    (TopicRole.CANDLES, "Candles", "closed one-minute candles"),
    (TopicRole.FEATURES, "Features", "rolling windows"),
    (TopicRole.PREDICTIONS, "Forecasts", "average price of the next hour"),
    (TopicRole.PREDICTION_SCORES, "Scores", "forecasts compared with actual prices"),
)
_MISSED_POLLS = 3  # consecutive; more than these are an outage
_LISTED_MARKETS = 10  # per flag; the others are only counted


def time_or_none(ms: int | None) -> str | None:
    """Return a time in ms as RFC 3339, or None for None."""
    return None if ms is None else to_rfc3339(ms)


def market_row(read_model: ReadModel, symbol: str) -> Document:
    """Return one market's newest tick; fields that only polls provide are from the newest poll."""
    market = read_model.markets[symbol]
    tick = market.tick
    polled = market.polled or tick
    base, _, quote = symbol.partition("-")
    row: Document = {"symbol": symbol, "base": base, "quote": quote}
    if tick is None or polled is None:
        unknown = ("timestamp", "price", "mid", "spread_bps", "change_24h_percent", "last", "last_of", "divergence_bps")
        return row | dict.fromkeys(unknown) | {"flags": []}
    mid = mid_price(tick.bid_price, tick.ask_price)
    return row | {
        "timestamp": tick.timestamp,
        "price": polled.price,
        "mid": mid,
        "last": polled.price if mid is None else mid,
        "last_of": "mid" if mid is not None else None if polled.price is None else "price",
        "spread_bps": spread_bps(tick.bid_price, tick.ask_price),
        "change_24h_percent": polled.price_change_percentage_24h,
        "divergence_bps": polled.divergence_bps,
        "flags": _flags(market),
    }


def _flags(market: MarketView) -> list[str]:
    """Return the flags of the newest tick, and those of the newest poll that a stream's tick does not check."""
    tick, polled = market.tick, market.polled
    if tick is None or polled is None or tick is polled:
        return [] if tick is None else sorted(tick.flags)
    checked = {stale_flag(name) for name, state in tick.sources.items() if state.status != SourceStatus.NOT_POLLED}
    return sorted({*tick.flags, *(flag for flag in polled.flags if flag not in checked)})


def markets(read_model: ReadModel, now_ms: int | None) -> Document:
    """Return all markets, in the order of the settings."""
    return {"now": time_or_none(now_ms), "markets": [market_row(read_model, symbol) for symbol in read_model.symbols]}


def features(read_model: ReadModel, symbol: str) -> Document:
    """Return the newest feature row of a market; None before the first."""
    return {"symbol": symbol, "features": read_model.markets[symbol].features}


def history(read_model: ReadModel, symbol: str, points: int) -> Document:
    """Return the newest one-minute candles and mids, oldest first, as rows of numbers with times in ms."""
    market = read_model.markets[symbol]
    return {
        "symbol": symbol,
        "candle_columns": ["open_time_ms", "open", "high", "low", "close", "volume"],
        "candles": [market.candles[at] for at in sorted(market.candles)[-points:]],
        "tick_columns": ["timestamp_ms", "mid"],
        "ticks": list(market.ticks)[-points:],
    }


def tick_event(read_model: ReadModel, tick: Tick) -> Document:
    """Return a tick as a chart point, with the market's row and the newest state of each of its sources."""
    row = market_row(read_model, tick.symbol)
    point: TickPoint = (tick.timestamp_ms, row["mid"])
    return {"market": row, "point": point, "sources": read_model.markets[tick.symbol].sources, "flags": row["flags"]}


def sources_event(read_model: ReadModel, symbol: str) -> Document:
    """Return the states of a market's sources as an event like that of a tick; its point has no mid.

    For a poll in which no source has a price: there is no clean tick.
    """
    row, market = market_row(read_model, symbol), read_model.markets[symbol]
    point: TickPoint = (market.collected_ms or 0, None)
    return {"market": row, "point": point, "sources": market.sources, "flags": row["flags"]}


def summary(read_model: ReadModel, symbols: Iterable[str]) -> Document:
    """Return markets as short rows: there can be a thousand of them."""
    rows = []
    for symbol in symbols:
        row = market_row(read_model, symbol)
        rows.append((symbol, row["last"], row["change_24h_percent"], row["flags"], row["last_of"]))
    return {"columns": ["symbol", "last", "change_24h_percent", "flags", "last_of"], "rows": rows}


def snapshot(read_model: ReadModel, symbol: str, health: Document, limit: int, *, is_forecast: bool) -> Document:
    """Return all data of the dashboard in one document: everything about `symbol`, and short rows of all markets.

    is_forecast: whether `symbol` is in `forecasting.symbols`.
    """
    return {
        "symbol": symbol,
        "markets": summary(read_model, read_model.symbols),
        "market": market_row(read_model, symbol),
        "sources": read_model.markets[symbol].sources,
        "history": history(read_model, symbol, read_model.points),
        "features": read_model.markets[symbol].features,
        "is_forecast": is_forecast,
        "predictions": predictions(read_model, symbol, limit)["predictions"],
        "scores": scores(read_model, symbol, limit),
        "health": health,
    }


def predictions(read_model: ReadModel, symbol: str | None, limit: int) -> Document:
    """Return predictions, latest target hour first."""
    symbols = read_model.symbols if symbol is None else (symbol,)
    found: list[Prediction] = [p for name in symbols for p in read_model.markets[name].predictions.values()]
    return {"symbol": symbol, "predictions": newest_first(found)[:limit]}


def scores(read_model: ReadModel, symbol: str | None, limit: int) -> Document:
    """Return scores, latest target hour first, and their summary by market, role, version and origin."""
    symbols = read_model.symbols if symbol is None else (symbol,)
    found = [score for name in symbols for score in read_model.markets[name].scores.values()]
    newest = sorted(found, key=lambda s: (s.target_start, s.scored_at), reverse=True)
    return {"symbol": symbol, "summary": summarise(found), "scores": newest[:limit]}


def summarise(found: Iterable[Score]) -> list[Document]:
    """Summarise scores by market, role, version and origin; live and backfilled scores are never mixed."""
    groups: dict[tuple[str, str, str, str], list[Score]] = defaultdict(list)
    for score in found:
        groups[score.symbol, score.role, score.model_version, score.origin].append(score)
    rows = []
    for (symbol, role, version, origin), group in sorted(groups.items()):
        n = len(group)
        rmse = math.sqrt(sum(s.error_bps**2 for s in group) / n)
        reference = math.sqrt(sum(s.last_price_error_bps**2 for s in group) / n)
        rows.append(
            {
                "symbol": symbol,
                "role": role,
                "model_version": version,
                "origin": origin,
                "n": n,
                "interval_level": group[-1].interval_level,
                "coverage": sum(s.covered for s in group) / n,
                "mean_abs_error_bps": sum(abs(s.error_bps) for s in group) / n,
                "mean_abs_last_price_error_bps": sum(abs(s.last_price_error_bps) for s in group) / n,
                "rmse_bps": rmse,
                "rmse_ratio_to_last_price": rmse / reference if reference else None,
                "mean_pinball_bps": sum(s.pinball_bps for s in group) / n,
                "mean_winkler_bps": sum(s.winkler_bps for s in group) / n,
                "first_target": min(s.target_start for s in group),
                "last_target": max(s.target_start for s in group),
            }
        )
    return rows


def health(
    read_model: ReadModel,
    kafka: KafkaView,
    settings: Settings,
    now_ms: int | None,
    pauses: Mapping[tuple[str, str], Pause] = MappingProxyType({}),
    programs: Sequence[Document] = (),
) -> Document:
    """Return each part's last event, age and state: ok, waiting (no data yet), late or outage.

    Args:
        read_model: the newest records.
        kafka: state of the brokers.
        settings: of the worker.
        now_ms: event time; None while it is unknown.
        pauses: of this worker, by source and operation.
        programs: `part_health.documents`.
    """
    forecasts = forecast_health.forecasts(read_model, settings, now_ms)
    parts = [_part(read_model, kafka, settings, now_ms, *part) for part in _PARTS]
    for part in parts:
        if part["part"] == TopicRole.PREDICTIONS.value:
            part["state"] = forecasts["state"]
    flagged = _flagged(read_model)
    sources = [_source(read_model, settings, now_ms, name, flagged) for name in sorted(read_model.sources)]
    collected = settings.topic(TopicRole.TICKS).name
    cleaned = settings.topic(TopicRole.TICKS_CLEAN).name
    states = [entry["state"] for entry in (*parts, *sources, *programs)] + ([] if kafka.connected else ["outage"])
    worst = next((state for state in ("outage", "late", "waiting") if state in states), "ok")
    return {
        "now": time_or_none(now_ms),
        "speed": clock_speed(settings),
        "state": worst,
        "parts": parts,
        "programs": list(programs),
        "sources": sources,
        "pauses": [
            {
                "source": source,
                "operation": operation,
                "kind": pause.kind,
                "problem": pause.problem,
                "pause_s": pause.seconds,
            }
            for (source, operation), pause in sorted(pauses.items())
        ],
        "flags": [
            {"flag": flag, "n_markets": len(symbols), "markets": symbols[:_LISTED_MARKETS]}
            for flag, symbols in sorted(flagged.items())
        ],
        "divergence": {"bound_bps": settings.streams.divergence_bps, "widest": _widest_divergence(read_model)},
        "kafka": {
            "state": "ok" if kafka.connected else "outage",
            "problem": kafka.problem,
            "since": time_or_none(kafka.problem_since_ms),
            "lag": {"clean": kafka.lags.get(collected), "features": kafka.lags.get(cleaned)},
            "failures": kafka.failures,
        },
        "dead_letters": _dead_letters(read_model, kafka),
        "forecasts": forecasts,
        "model": _model(read_model),
    }


def _flagged(read_model: ReadModel) -> dict[str, list[str]]:
    """Return flag → markets with this flag."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for symbol in read_model.symbols:
        for flag in _flags(read_model.markets[symbol]):
            found[flag].append(symbol)
    return found


def _widest_divergence(read_model: ReadModel) -> Document | None:
    known = [
        (abs(polled.divergence_bps), polled)
        for market in read_model.markets.values()
        if (polled := market.polled or market.tick) is not None and polled.divergence_bps is not None
    ]
    if not known:
        return None
    _, tick = max(known, key=lambda one: one[0])
    return {"symbol": tick.symbol, "divergence_bps": tick.divergence_bps, "timestamp": tick.timestamp}


def _part(
    read_model: ReadModel,
    kafka: KafkaView,
    settings: Settings,
    now_ms: int | None,
    role: TopicRole,
    name: str,
    description: str,
) -> Document:
    topic = read_model.topics[role]
    # Scores arrive once per hour and need the hourly row: late after 1.5 h, outage after 3 h.
    hourly = role is TopicRole.PREDICTION_SCORES
    poll_s = settings.streams.poll_interval_s
    late_s, outage_s = (5_400.0, 10_800.0) if hourly else (2.0 * poll_s + 60, (_MISSED_POLLS + 2) * poll_s + 60)
    age_s = _age_s(topic.event_ms, now_ms)
    return {
        "part": role.value,
        "name": name,
        "what": description,
        "state": _state(age_s, late_s, outage_s),
        "last_event": time_or_none(topic.event_ms),
        "last_arrival": time_or_none(topic.arrived_ms),
        "age_s": age_s,
        "records": topic.records,
        "on_topic": kafka.on_topic.get(role),
        "undecodable": topic.undecodable,
        "skipped": topic.skipped,
        "view_lag": topic.lag,
    }


def _source(
    read_model: ReadModel, settings: Settings, now_ms: int | None, name: str, flagged: Mapping[str, Sequence[str]]
) -> Document:
    source = read_model.sources[name]
    poll_s = settings.streams.poll_interval_s
    tick_age_s = _age_s(source.tick_ms, now_ms)
    stale = len(flagged.get(stale_flag(name), ()))
    state = (
        "disabled" if source.status == SourceStatus.DISABLED else "ok" if source.status == SourceStatus.OK else "outage"
    )
    if state == "ok":  # no better than the age of its newest tick
        state = _state(tick_age_s, 2.0 * poll_s + 60, (_MISSED_POLLS + 2) * poll_s + 60)
    if state == "ok" and stale * 2 > sum(market.tick is not None for market in read_model.markets.values()):
        state = "late"  # it responds, but with stale data for most markets
    return {
        "source": name,
        "state": state,
        "status": source.status,
        "observed_at": source.observed_at,
        "age_s": _age_s(None if source.observed_at is None else from_rfc3339(source.observed_at), now_ms),
        "staleness_ms": source.staleness_ms,
        "failing_since": time_or_none(source.failing_since_ms)
        if source.status not in (SourceStatus.OK, SourceStatus.DISABLED)
        else None,
        "last_tick": to_rfc3339(source.tick_ms),
        "stale": bool(stale),
        "stale_markets": stale,
    }


def _dead_letters(read_model: ReadModel, kafka: KafkaView) -> Document:
    newest = read_model.dead_letters[-1] if read_model.dead_letters else None
    return {
        "on_topic": kafka.on_topic.get(TopicRole.DEAD_LETTERS),
        "by_reason": dict(read_model.dead_letter_reasons),
        "newest": None
        if newest is None
        else {
            "refused_at": newest.refused_at,
            "reason": newest.reason,
            "field": newest.field,
            "value": newest.value,
            "expected": newest.expected,
            "topic": newest.topic,
            "partition": newest.partition,
            "offset": newest.offset,
        },
    }


def _model(read_model: ReadModel) -> Document | None:
    """Return the model that serves the newest hour: the champion, or the baseline in its place with the reason."""
    newest = read_model.serving
    if newest is None:
        return None
    return {
        "model_version": newest.model_version,
        "role": newest.role,
        "trained_through": newest.trained_through,
        "data_through": newest.data_through,
        "issued_at": newest.issued_at,
        "n_calib": newest.n_calib,
        "stale_reason": newest.stale_reason,
    }


def _age_s(at_ms: int | None, now_ms: int | None) -> float | None:
    return None if at_ms is None or now_ms is None else max(now_ms - at_ms, 0) / 1000


def _state(age_s: float | None, late_s: float, outage_s: float) -> str:
    if age_s is None:
        return "waiting"
    if age_s > outage_s:
        return "outage"
    return "late" if age_s > late_s else "ok"
