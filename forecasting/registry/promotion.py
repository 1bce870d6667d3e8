"""Rules by which a challenger becomes champion. Pure.

A challenger of another recipe is compared on at least MIN_COMMON_H common walk-forward hours. A newer version of the
champion's own recipe replaces the champion unless its held-out check fails.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from forecasting.data.hourly_grid import Bools, Floats, Ints
from forecasting.evaluation.metrics import hac_t, upper_tail, worst_week

MIN_COMMON_H = 3_000
MIN_GAIN = 0.003
MAX_P = 0.05
COVERAGE = (0.88, 0.92)
MIN_WORST_WEEK = 0.80
MAX_RMSE_RATIO = 1.002
HAR_WATCH_H = 2_000
REFRESH_COVERAGE = (0.85, 0.95)
REFRESH_RMSE_RATIO = 1.02


@dataclass(frozen=True)
class WalkForwardLosses:
    """Walk-forward losses of one recipe by hour.

    start_ms: starts of the anchor hours (m,). pinball: mean pinball loss in bps (m,). covered: whether the 90 % band
    covered the truth (m,). rmse_over_last_price: over all hours.
    """

    start_ms: Ints
    pinball: Floats
    covered: Bools
    rmse_over_last_price: float


@dataclass(frozen=True)
class Verdict:
    """Whether a version is promoted, and why. checks: each condition and whether it is met."""

    promoted: bool
    why: str
    provisional: bool = False
    n_common: int = 0
    gain: float | None = None
    p: float | None = None
    checks: tuple[tuple[str, bool], ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "checks": dict(self.checks)}


def first_of_registry() -> Verdict:
    """Promote the first model of a registry provisionally."""
    return Verdict(promoted=True, provisional=True, why="first model of an empty registry: champion provisionally")


def refresh(coverage_90: float, rmse_over_last_price: float) -> Verdict:
    """Decide on a newer version of the champion's recipe, by its held-out hours (few, hence looser bounds)."""
    checks = (
        ("coverage_90 within .85-.95", REFRESH_COVERAGE[0] <= coverage_90 <= REFRESH_COVERAGE[1]),
        ("rmse <= 1.02", rmse_over_last_price <= REFRESH_RMSE_RATIO),
    )
    held = all(ok for _, ok in checks)
    why = "same recipe on newer hours" if held else "same recipe, but its held-out check failed"
    return Verdict(promoted=held, why=why, checks=checks)


def replacement(why: str, coverage_90: float, rmse_over_last_price: float) -> Verdict:
    """Decide on a model of another recipe when the champion cannot serve, so that not only baselines are left."""
    checked = refresh(coverage_90, rmse_over_last_price)
    if not checked.promoted:
        return Verdict(promoted=False, why=f"{why}, but the held-out check failed", checks=checked.checks)
    return Verdict(promoted=True, provisional=True, why=f"{why}: champion provisionally", checks=checked.checks)


def contest(
    challenger: WalkForwardLosses, champion: WalkForwardLosses, har: WalkForwardLosses, attempts: int
) -> Verdict:
    """Compare another recipe with the champion's, on their common walk-forward hours.

    Args:
        challenger: losses of the new recipe.
        champion: losses of the champion's recipe.
        har: losses of the HAR baseline.
        attempts: earlier refusals since the champion's promotion; the significance level is divided by
            attempts + 1 (Bonferroni).
    """
    common = np.intersect1d(np.intersect1d(challenger.start_ms, champion.start_ms), har.start_ms)
    n = len(common)
    if n < MIN_COMMON_H:
        return Verdict(
            promoted=False, n_common=n, why=f"{n} common walk-forward hours: expected at least {MIN_COMMON_H}"
        )
    new, old, reference = (r.pinball[np.isin(r.start_ms, common)] for r in (challenger, champion, har))
    covered = challenger.covered[np.isin(challenger.start_ms, common)].astype(float)
    gain = 1.0 - float(new.mean() / old.mean())
    p = upper_tail(hac_t(old - new))
    level = MAX_P / (attempts + 1)
    coverage = float(covered.mean())
    checks = (
        (f"pinball better by {MIN_GAIN:.1%}", gain >= MIN_GAIN),
        (f"Diebold-Mariano p < {level:.4f}", p < level),
        ("coverage_90 within .88-.92", COVERAGE[0] <= coverage <= COVERAGE[1]),
        ("worst week >= .80", worst_week(covered, common // 3_600_000) >= MIN_WORST_WEEK),
        ("rmse <= 1.002 x last price", challenger.rmse_over_last_price <= MAX_RMSE_RATIO),
        ("no worse than har", float(new.mean()) <= float(reference.mean())),
    )
    failed = [name for name, ok in checks if not ok]
    why = "better than the champion by every check" if not failed else f"failed: {'; '.join(failed)}"
    return Verdict(promoted=not failed, n_common=n, gain=gain, p=p, why=why, checks=checks)


def har_serves(champion: Floats, har: Floats) -> bool:
    """Whether HAR replaces the champion: the champion's mean pinball loss over the newest HAR_WATCH_H is higher."""
    n = min(len(champion), len(har))
    if n < HAR_WATCH_H:
        return False
    return float(champion[-HAR_WATCH_H:].mean()) > float(har[-HAR_WATCH_H:].mean())
