"""Whether forecasts are still made, as their topic alone tells: of each market the newest must be of the running hour.

Who serves may be the champion or the baseline in its place; challengers serve nobody. Pure: the time comes in as
`now_ms`; it must never read a topic or a clock, nor know how forecasts are made.
"""

from collections.abc import Collection
from typing import Any

from clients.clock import clock_speed
from config.settings import Settings
from marketdata.records import Prediction
from marketdata.times import HOUR_MS
from streams.views.read_model import Board, closed_ms

_LEAST_GRACE_S = 900.0  # event time: the hour's row and the forecast are made within minutes, on a busy machine too
_REAL_GRACE_S = 60.0  # of this machine's time, in which a replay's clock runs on
_NAMED_MARKETS = 10


def grace_s(settings: Settings) -> float:
    """Event seconds after an hour's end within which the next forecast must have come."""
    return settings.event_time.hour_grace_s + max(_LEAST_GRACE_S, _REAL_GRACE_S * clock_speed(settings))


def serving(board: Board, forecast: Collection[str]) -> list[Prediction]:
    """What serves each market that is `forecast`; the old forecasts of one that is so no more are owed no successor."""
    return [
        made for symbol, market in board.markets.items() if symbol in forecast and (made := market.served) is not None
    ]


def forecasts(board: Board, settings: Settings, now_ms: int | None) -> dict[str, Any]:
    """Of the markets of `forecasting.symbols` that ever had a forecast: which have none of the running hour.

    A market is `late` when the grace after the end of the newest forecast's hour is over, an `outage` an hour later.
    """
    grace_ms = int(grace_s(settings) * 1000)
    served = serving(board, settings.forecasting.symbols)
    overdue = []
    for made in sorted(served, key=closed_ms):
        due_ms = closed_ms(made) + HOUR_MS
        if now_ms is None or now_ms <= due_ms + grace_ms:
            continue
        overdue.append(
            {
                "symbol": made.symbol,
                "state": "outage" if now_ms > due_ms + grace_ms + HOUR_MS else "late",
                "target_start": made.target_start,
                "target_end": made.target_end,
                "issued_at": made.issued_at,
                "overdue_s": (now_ms - due_ms) / 1000,
            }
        )
    state = "waiting" if not served or now_ms is None else str(overdue[0]["state"]) if overdue else "ok"
    return {
        "state": state,
        "reason": _reason(overdue),
        "grace_s": grace_ms / 1000,
        "n_markets": len(served),
        "n_overdue": len(overdue),
        "overdue": overdue[:_NAMED_MARKETS],
    }


def _reason(overdue: list[dict[str, Any]]) -> str | None:
    if not overdue:
        return None
    longest = overdue[0]
    more = f" and {len(overdue) - 1} more" if len(overdue) > 1 else ""
    return (
        f"no forecast of {longest['symbol']}{more} since the one of {longest['target_start']}: does the predictor run?"
    )
