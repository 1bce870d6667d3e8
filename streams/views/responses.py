"""The JSON documents of /api, made from the board: plain dicts, times in RFC 3339, prices in the quote currency.

Pure; docs/api.md describes every field. It must never read a topic or a clock: the time comes in as `now_ms`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clients.clock import clock_speed
from config.settings import Settings
from marketdata.enrichment import mid_price, spread_bps
from marketdata.records import Prediction, Score, Tick
from marketdata.times import from_rfc3339, to_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import SourceStatus, stale_flag
from streams.views import forecast_health as overdue
from streams.views.follower import KafkaBoard
from streams.views.read_model import Board, MarketBoard, TickPoint, newest_first

Document = dict[str, Any]

_PARTS = (
    (TopicRole.TICKS_CLEAN, "Ticks", "collected and cleaned quotes"),
    (TopicRole.CANDLES, "Candles", "closed one-minute candles"),
    (TopicRole.FEATURES, "Features", "rolling windows"),
    (TopicRole.PREDICTIONS, "Forecasts", "the next hour's average price"),
    (TopicRole.PREDICTION_SCORES, "Scores", "forecasts against the truth"),
)
_MISSED_POLLS = 3  # this many in a row make an outage
_NAMED_MARKETS = 10  # of a flag; the rest are counted


def time_or_none(ms: int | None) -> str | None:
    """RFC 3339 of a time in ms, None of None."""
    return None if ms is None else to_rfc3339(ms)


def market_row(board: Board, symbol: str) -> Document:
    """One market in a line: its newest tick; what only polls tell is that of the newest poll."""
    market = board.markets[symbol]
    tick = market.tick
    polled = market.polled or tick
    base, _, quote = symbol.partition("-")
    row: Document = {"symbol": symbol, "base": base, "quote": quote}
    if tick is None or polled is None:
        unknown = ("timestamp", "price", "mid", "spread_bps", "change_24h_percent", "last", "divergence_bps")
        return row | dict.fromkeys(unknown) | {"flags": []}
    mid = mid_price(tick.bid_price, tick.ask_price)
    return row | {
        "timestamp": tick.timestamp,
        "price": polled.price,
        "mid": mid,
        "last": polled.price if mid is None else mid,
        "spread_bps": spread_bps(tick.bid_price, tick.ask_price),
        "change_24h_percent": polled.price_change_percentage_24h,
        "divergence_bps": polled.divergence_bps,
        "flags": _flags(market),
    }


def _flags(market: MarketBoard) -> list[str]:
    """What was noticed of the newest tick, and in the newest poll of what that tick, if a stream's, does not tell."""
    tick, polled = market.tick, market.polled
    if tick is None or polled is None or tick is polled:
        return [] if tick is None else sorted(tick.flags)
    told = {stale_flag(name) for name, state in tick.sources.items() if state.status != SourceStatus.NOT_POLLED}
    return sorted({*tick.flags, *(flag for flag in polled.flags if flag not in told)})


def markets(board: Board, now_ms: int | None) -> Document:
    """All markets, in the order of the settings."""
    return {"now": time_or_none(now_ms), "markets": [market_row(board, symbol) for symbol in board.symbols]}


def features(board: Board, symbol: str) -> Document:
    """The newest feature row of a market, null before the first."""
    return {"symbol": symbol, "features": board.markets[symbol].features}


def history(board: Board, symbol: str, points: int) -> Document:
    """The newest one-minute candles and mids, oldest first, as rows of numbers with times in ms."""
    market = board.markets[symbol]
    return {
        "symbol": symbol,
        "candle_columns": ["open_time_ms", "open", "high", "low", "close", "volume"],
        "candles": [market.candles[at] for at in sorted(market.candles)[-points:]],
        "tick_columns": ["timestamp_ms", "mid"],
        "ticks": list(market.ticks)[-points:],
    }


def tick_event(board: Board, tick: Tick) -> Document:
    """A tick as the chart wants it, and the newest state of each source of that market."""
    row = market_row(board, tick.symbol)
    point: TickPoint = (tick.timestamp_ms, row["mid"])
    return {"market": row, "point": point, "sources": board.markets[tick.symbol].sources, "flags": row["flags"]}


def summary(board: Board, symbols: Iterable[str]) -> Document:
    """Markets as a list wants them: rows of few columns, for there may be a thousand."""
    rows = []
    for symbol in symbols:
        row = market_row(board, symbol)
        rows.append((symbol, row["last"], row["change_24h_percent"], row["flags"]))
    return {"columns": ["symbol", "last", "change_24h_percent", "flags"], "rows": rows}


def snapshot(board: Board, symbol: str, health: Document, limit: int, *, is_forecast: bool) -> Document:
    """All that a page shows, in one document: the chosen market in full, the others as a list.

    is_forecast: whether forecasts of the chosen market are made.
    """
    return {
        "symbol": symbol,
        "markets": summary(board, board.symbols),
        "market": market_row(board, symbol),
        "sources": board.markets[symbol].sources,
        "history": history(board, symbol, board.points),
        "features": board.markets[symbol].features,
        "is_forecast": is_forecast,
        "predictions": predictions(board, symbol, limit)["predictions"],
        "scores": scores(board, symbol, limit),
        "health": health,
    }


def predictions(board: Board, symbol: str | None, limit: int) -> Document:
    """Predictions, those for the latest hours first."""
    chosen = board.symbols if symbol is None else (symbol,)
    found: list[Prediction] = [p for name in chosen for p in board.markets[name].predictions.values()]
    return {"symbol": symbol, "predictions": newest_first(found)[:limit]}


def scores(board: Board, symbol: str | None, limit: int) -> Document:
    """Scores, the latest hours first, and their summary by market, role, version and origin."""
    chosen = board.symbols if symbol is None else (symbol,)
    found = [score for name in chosen for score in board.markets[name].scores.values()]
    newest = sorted(found, key=lambda s: (s.target_start, s.scored_at), reverse=True)
    return {"symbol": symbol, "summary": summarise(found), "scores": newest[:limit]}


def summarise(found: Iterable[Score]) -> list[Document]:
    """Scores by market, role, version and origin: live ones never mix with backfilled ones."""
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


def health(board: Board, kafka: KafkaBoard, settings: Settings, now_ms: int | None) -> Document:
    """Each part's last event, age and state; `state` is ok, waiting (nothing yet), late or outage."""
    made = overdue.forecasts(board, settings, now_ms)
    parts = [_part(board, kafka, settings, now_ms, *part) for part in _PARTS]
    for part in parts:
        if part["part"] == TopicRole.PREDICTIONS.value:
            part["state"] = made["state"]
    flagged = _flagged(board)
    sources = [_source(board, settings, now_ms, name, flagged) for name in sorted(board.sources)]
    collected = settings.topic(TopicRole.TICKS).name
    cleaned = settings.topic(TopicRole.TICKS_CLEAN).name
    states = [entry["state"] for entry in (*parts, *sources)] + ([] if kafka.connected else ["outage"])
    worst = next((state for state in ("outage", "late", "waiting") if state in states), "ok")
    return {
        "now": time_or_none(now_ms),
        "speed": clock_speed(settings),
        "state": worst,
        "parts": parts,
        "sources": sources,
        "flags": [
            {"flag": flag, "n_markets": len(symbols), "markets": symbols[:_NAMED_MARKETS]}
            for flag, symbols in sorted(flagged.items())
        ],
        "divergence": {"bound_bps": settings.streams.divergence_bps, "widest": _widest_divergence(board)},
        "kafka": {
            "state": "ok" if kafka.connected else "outage",
            "problem": kafka.problem,
            "since": time_or_none(kafka.problem_since_ms),
            "lag": {"clean": kafka.lags.get(collected), "features": kafka.lags.get(cleaned)},
            "failures": kafka.failures,
        },
        "dead_letters": _dead_letters(board, kafka),
        "forecasts": made,
        "model": _model(board),
    }


def _flagged(board: Board) -> dict[str, list[str]]:
    """Flag to the markets whose newest ticks have it."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for symbol in board.symbols:
        for flag in _flags(board.markets[symbol]):
            found[flag].append(symbol)
    return found


def _widest_divergence(board: Board) -> Document | None:
    known = [
        (abs(polled.divergence_bps), polled)
        for market in board.markets.values()
        if (polled := market.polled or market.tick) is not None and polled.divergence_bps is not None
    ]
    if not known:
        return None
    _, tick = max(known, key=lambda one: one[0])
    return {"symbol": tick.symbol, "divergence_bps": tick.divergence_bps, "timestamp": tick.timestamp}


def _part(
    board: Board, kafka: KafkaBoard, settings: Settings, now_ms: int | None, role: TopicRole, name: str, what: str
) -> Document:
    topic = board.topics[role]
    # Scores come once an hour, and may wait for the hour's row: an hour and a half is late, three hours an outage.
    hourly = role is TopicRole.PREDICTION_SCORES
    poll_s = settings.streams.poll_interval_s
    late_s, outage_s = (5_400.0, 10_800.0) if hourly else (2.0 * poll_s + 60, (_MISSED_POLLS + 2) * poll_s + 60)
    age_s = _age_s(topic.event_ms, now_ms)
    return {
        "part": role.value,
        "name": name,
        "what": what,
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
    board: Board, settings: Settings, now_ms: int | None, name: str, flagged: Mapping[str, Sequence[str]]
) -> Document:
    source = board.sources[name]
    poll_s = settings.streams.poll_interval_s
    told_s = _age_s(source.tick_ms, now_ms)
    stale = len(flagged.get(stale_flag(name), ()))
    state = (
        "disabled" if source.status == SourceStatus.DISABLED else "ok" if source.status == SourceStatus.OK else "outage"
    )
    if state == "ok":  # as good as the ticks that tell of it
        state = _state(told_s, 2.0 * poll_s + 60, (_MISSED_POLLS + 2) * poll_s + 60)
    if state == "ok" and stale * 2 > sum(market.tick is not None for market in board.markets.values()):
        state = "late"  # it answers, but for most markets with what is old
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


def _dead_letters(board: Board, kafka: KafkaBoard) -> Document:
    newest = board.dead_letters[-1] if board.dead_letters else None
    return {
        "on_topic": kafka.on_topic.get(TopicRole.DEAD_LETTERS),
        "by_reason": dict(board.dead_letter_reasons),
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


def _model(board: Board) -> Document | None:
    """What serves the newest hour: the champion, or the baseline in its place with the reason."""
    newest = board.served
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
