"""Samples for the models: causal inputs and the target of each hour, on the grid of hours. Pure numpy.

An anchor is an hour t at whose end a forecast is made. The forecast uses rows up to t; its target is the average price
of hour t + horizon. Every input depends only on rows at or before its own position.
"""

from dataclasses import dataclass

import numpy as np

from forecasting.data.hourly_grid import Bools, Floats, Hours, Ints
from marketdata.times import HOUR_MS
from marketdata.vocabulary import Basis

EWMA_HALF_LIFE_H = 24.0
WEEK_H = 168
BASIS_WIDENING = 1.07
"""(open + high + low + close) / 4 of an hour moves less than the mean of its minutes: log(average / previous last
price) is 1.07 times as large for minutes in mean absolute value, 1.06 in sd (BTC 2022–2024, 26,299 hours). Targets of
basis `candles_1h` are multiplied by it for training; forecasts are divided by it when such an hour is their truth."""
RANGE_LOSS = 1.02
"""The range of n ticks is 1 - 1.02/√n times the true range. Measured on the same minutes, closes against highs and
lows; the form is from Broadie, Glasserman and Kou (1997)."""
PARKINSON = 4 * np.log(2)  # Parkinson 1980: E[ln(high/low)²] = 4 ln 2 σ²
VARIANCE_FLOOR = 1e-8
"""Added before logarithms (1 bp per hour, below any real hour): the range of an hour with one tick is 0."""
_TINY = 1e-9

NET_INPUTS = (
    "return_over_sigma",
    "last_minus_average_over_sigma",
    "log_variance",
    "log_volume_over_week",
    "hour_sin",
    "hour_cos",
    "log_spread_bps",
    "log_liquidity",
)
FLAGS = ("spread_missing", "liquidity_missing")
PLAIN_INPUTS = ("avg_price", "avg_spread", "total_liquidity", "avg_volatility", "avg_volume")


def trailing_mean(values: Floats, width: int, least: int) -> Floats:
    """Mean of the last `width` entries up to each position; NaN if fewer than `least` of them are known."""
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - width, 0)
    n = count[stop] - count[start]
    with np.errstate(invalid="ignore", divide="ignore"):
        # Rounding can make these differences slightly negative even if all values are positive.
        return np.where(n >= least, (total[stop] - total[start]) / n, np.nan)


def ewma(values: Floats, half_life: float) -> Floats:
    """Exponentially weighted mean up to each position; NaN entries are skipped; NaN before the first known one."""
    keep = 0.5 ** (1.0 / half_life)
    out = np.full(len(values), np.nan)
    weight = total = 0.0
    for i, value in enumerate(values.tolist()):
        if value == value:  # noqa: PLR0124  false only for NaN; three times as fast as isfinite
            total = total * keep + value
            weight = weight * keep + 1.0
        if weight:
            out[i] = total / weight
    return out


def _shift(values: Floats, by: int) -> Floats:
    """Shift values to later positions by `by`; NaN at the start."""
    out = np.full(len(values), np.nan)
    out[by:] = values[: max(len(values) - by, 0)]
    return out


@dataclass(frozen=True)
class Samples:
    """Inputs and targets on the hour grid of `hours` (n = number of hours).

    target: log of the average price of hour t + horizon over the last price of hour t, NaN if unknown, shape (n,).
    widening: factor of `target` for training (see BASIS_WIDENING), shape (n,).
    sigma: EWMA of hourly returns (root mean square), log price, shape (n,).
    log_variance: log of the hour's Parkinson variance, shape (n,).
    net: shape (n, 8), NaN if missing, order of NET_INPUTS. plain: shape (n, 5), order of PLAIN_INPUTS.
    har: design of the plain HAR regression; har_rich: with ranges, volume and seasonality; no intercept column.
    anchors: positions t whose window of `sequence_h` hours has no gap and whose inputs are known.
    """

    hours: Hours
    horizon_h: int
    sequence_h: int
    target: Floats
    widening: Floats
    sigma: Floats
    log_variance: Floats
    net: Floats
    plain: Floats
    har: Floats
    har_rich: Floats
    anchors: Ints

    @property
    def learnable(self) -> Bools:
        """Whether the target of each anchor is known, shape (anchors,)."""
        return np.isfinite(self.target[self.anchors])

    def window(self, values: Floats, anchors: Ints) -> Floats:
        """The `sequence_h` rows ending at each anchor: shape (anchors, sequence_h, columns)."""
        index = anchors[:, None] + np.arange(1 - self.sequence_h, 1)[None, :]
        out: Floats = values[index]
        return out

    def target_start_ms(self, anchors: Ints) -> Ints:
        out: Ints = self.hours.start_ms[anchors] + self.horizon_h * HOUR_MS
        return out


def _variance(hours: Hours) -> Floats:
    """Parkinson variance of each hour; the range of hours of basis `ticks` is corrected by RANGE_LOSS."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_range: Floats = np.log(hours.high_price / hours.low_price)
        share = 1.0 - RANGE_LOSS / np.sqrt(np.maximum(hours.n_ticks, 4.0))
        log_range = np.where(hours.basis == Basis.TICKS, log_range / share, log_range)
    variance: Floats = log_range**2 / PARKINSON
    return variance


def _log(values: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, np.log(values), np.nan)


def _hour_dummies(hours: Hours, ahead: int) -> Floats:
    hour = (hours.start_ms // HOUR_MS + ahead) % 24
    dummies: Floats = (hour[:, None] == np.arange(1, 24)[None, :]).astype(np.float64)
    return dummies


def _har_designs(hours: Hours, variance: Floats, sigma: Floats, log_volume: Floats, horizon_h: int) -> list[Floats]:
    floor = VARIANCE_FLOOR
    day = _log(trailing_mean(variance, 24, 20) + floor)
    week = _log(trailing_mean(variance, WEEK_H, 140) + floor)
    hour = _log(variance + floor)
    dummies = _hour_dummies(hours, horizon_h)
    plain = np.column_stack([hour, day, week, dummies])
    same_hour = np.column_stack([_shift(variance, 24 * d - horizon_h) for d in range(1, 8) if 24 * d >= horizon_h])
    known = np.isfinite(same_hour)
    seasonal = np.where(known, same_hour, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    weekday = ((hours.start_ms // HOUR_MS + horizon_h) // 24 + 3) % 7  # the epoch is a Thursday; 0 is Monday
    rich = np.column_stack(
        [
            plain,
            _log(trailing_mean(variance, 3, 2) + floor),
            _log(trailing_mean(variance, 6, 5) + floor),
            2 * _log(sigma + 1e-6),
            np.where(known.any(axis=1), _log(seasonal + floor), week),
            np.nan_to_num(log_volume),
            np.nan_to_num(trailing_mean(log_volume, 6, 1)),
            (weekday[:, None] == np.arange(1, 7)[None, :]).astype(float),
        ]
    )
    return [plain, rich]


def build_samples(hours: Hours, *, sequence_h: int, horizon_h: int = 1) -> Samples:
    """Compute inputs and targets of every hour. An hour whose window crosses a gap is not an anchor."""
    n = len(hours)
    log_last = _log(np.where(hours.present, hours.last_price, np.nan))
    log_avg = _log(np.where(hours.present, hours.avg_price, np.nan))
    returns = log_last - _shift(log_last, 1)
    sigma = np.sqrt(ewma(returns**2, EWMA_HALF_LIFE_H)) + 1e-6
    variance = _variance(hours)
    # The volume of an hour of ticks may be unknown. A zero is a real zero, whose logarithm is NaN here.
    log_volume = _log(hours.avg_volume)
    log_volume = log_volume - trailing_mean(log_volume, WEEK_H, 24)
    angle = 2 * np.pi * (hours.start_ms // HOUR_MS % 24) / 24
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_bps = hours.avg_spread / hours.avg_price * 1e4
    net = np.column_stack(
        [
            returns / sigma,
            (log_last - log_avg) / sigma,
            _log(variance + VARIANCE_FLOOR),
            log_volume,
            np.sin(angle),
            np.cos(angle),
            _log(spread_bps + _TINY),
            _log(hours.total_liquidity),
        ]
    )
    plain = np.column_stack([getattr(hours, name) for name in PLAIN_INPUTS])
    har, rich = _har_designs(hours, variance, sigma, log_volume, horizon_h)
    target = np.full(n, np.nan)
    stop = max(n - horizon_h, 0)
    target[:stop] = log_avg[horizon_h:] - log_last[:stop]
    widening = np.ones(n)
    widening[:stop] = np.where(hours.basis[horizon_h:] == Basis.CANDLES_1H, BASIS_WIDENING, 1.0)
    whole = trailing_mean(hours.present.astype(float), sequence_h, sequence_h) > 1 - 0.5 / sequence_h
    anchors = np.flatnonzero(whole & np.isfinite(rich).all(axis=1))
    return Samples(
        hours=hours,
        horizon_h=horizon_h,
        sequence_h=sequence_h,
        target=target,
        widening=widening,
        sigma=sigma,
        log_variance=_log(variance + VARIANCE_FLOOR),
        net=net,
        plain=plain,
        har=har,
        har_rich=rich,
        anchors=anchors.astype(np.int64),
    )
