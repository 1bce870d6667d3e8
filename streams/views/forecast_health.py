"""Health of the forecasts, from the topic alone: each market's newest forecast must be for the running hour.

A forecast serves if its role is champion, or baseline in the champion's place; challengers never serve.
"""

from collections.abc import Collection
from typing import Any

from clients.clock import clock_speed
from config.settings import Settings
from marketdata.records import Prediction
from marketdata.times import HOUR_MS
from streams.views.read_model import ReadModel, anchor_end_ms

_MIN_GRACE_S = 900.0  # event time: the hourly row and the forecast take minutes, also on a busy machine
_REAL_GRACE_S = 60.0  # time of this machine, during which a replay's clock continues
_LISTED_MARKETS = 10


def grace_s(settings: Settings) -> float:
    """Return the event seconds after an hour's end within which the next forecast must arrive."""
    return settings.event_time.hour_grace_s + max(_MIN_GRACE_S, _REAL_GRACE_S * clock_speed(settings))


def serving_forecasts(read_model: ReadModel, symbols: Collection[str]) -> list[Prediction]:
    """Return the newest serving forecast of each market in `symbols`; other markets expect no further forecasts."""
    return [
        prediction
        for symbol, market in read_model.markets.items()
        if symbol in symbols and (prediction := market.serving) is not None
    ]


def forecasts(read_model: ReadModel, settings: Settings, now_ms: int | None) -> dict[str, Any]:
    """Return the field `forecasts` of /api/health: which markets lack a forecast for the running hour.

    Counts the markets of `forecasting.symbols` that ever had a forecast. A market is `late` when the grace after the
    end of its newest forecast's hour is over, and an `outage` one hour later.
    """
    grace_ms = int(grace_s(settings) * 1000)
    newest = serving_forecasts(read_model, settings.forecasting.symbols)
    overdue = []
    for prediction in sorted(newest, key=anchor_end_ms):
        due_ms = anchor_end_ms(prediction) + HOUR_MS
        if now_ms is None or now_ms <= due_ms + grace_ms:
            continue
        overdue.append(
            {
                "symbol": prediction.symbol,
                "state": "outage" if now_ms > due_ms + grace_ms + HOUR_MS else "late",
                "target_start": prediction.target_start,
                "target_end": prediction.target_end,
                "issued_at": prediction.issued_at,
                "overdue_s": (now_ms - due_ms) / 1000,
            }
        )
    state = "waiting" if not newest or now_ms is None else str(overdue[0]["state"]) if overdue else "ok"
    return {
        "state": state,
        "reason": _reason(overdue),
        "grace_s": grace_ms / 1000,
        "n_markets": len(newest),
        "n_overdue": len(overdue),
        "overdue": overdue[:_LISTED_MARKETS],
    }


def _reason(overdue: list[dict[str, Any]]) -> str | None:
    if not overdue:
        return None
    longest = overdue[0]
    more = f" and {len(overdue) - 1} more" if len(overdue) > 1 else ""
    return (
        f"no forecast for {longest['symbol']}{more} since the one for {longest['target_start']}; "
        "check that the predictor is running"
    )
