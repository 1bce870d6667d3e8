"""Walk-forward of the baselines: causality, gap, skill."""

import numpy as np
import pytest

from forecasting.data.hourly_grid import to_hours
from forecasting.data.samples import Samples, build_samples
from forecasting.evaluation.walk_forward import calibrate, walk_forward
from forecasting.models.catalogue import NAMES, make
from forecasting.models.network import Training
from marketdata.errors import ForecastError
from tests.support.forecasting_hours import walk

BASELINES = [name for name in NAMES if not name.startswith("lstm")]


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "gradient-boosting"])
def test_later_rows_change_no_forecast_of_a_baseline(name: str) -> None:
    """Calibrated forecasts up to a point do not depend on rows after it."""
    whole, cut = walk(2_400), 2_000
    short = build_samples(to_hours(whole.slice(0, cut), "BTC-USD"), sequence_h=60)
    long = build_samples(to_hours(whole, "BTC-USD"), sequence_h=60)

    def run(samples: Samples) -> np.ndarray:
        used, forecast = walk_forward(lambda: make(name, Training()), samples, first=1_400, refit_every_h=168)
        return calibrate(used, forecast, samples).calibrated.quantiles

    before, after = run(short), run(long)
    np.testing.assert_array_equal(before, after[: len(before)])
    assert len(after) > len(before)


def test_har_beats_constant_width_where_volatility_persists(samples: Samples) -> None:
    from forecasting.evaluation.metrics import pinball

    losses = {}
    for name in ("last-price", "har"):
        used, forecast = walk_forward(lambda n=name: make(n, Training()), samples, first=1_500, refit_every_h=500)
        run = calibrate(used, forecast, samples)
        losses[name] = pinball(run.calibrated.quantiles, run.truth).mean()
    assert losses["har"] < 0.97 * losses["last-price"]


def test_a_gap_below_60_hours_is_refused(samples: Samples) -> None:
    with pytest.raises(ForecastError, match="gap_h"):
        walk_forward(lambda: make("ewma", Training()), samples, first=1_500, refit_every_h=500, gap_h=59)
