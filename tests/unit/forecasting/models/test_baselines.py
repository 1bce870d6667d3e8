"""The baselines: shape of forecasts, saving, names."""

import numpy as np
import pytest

from forecasting.data.samples import Samples
from forecasting.models.catalogue import NAMES, make
from forecasting.models.har import Har
from forecasting.models.network import Training
from marketdata.errors import ForecastError

BASELINES = [name for name in NAMES if not name.startswith("lstm")]


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_gives_ascending_quantiles_in_price_space(name: str, samples: Samples) -> None:
    known = samples.anchors[samples.learnable]
    model = make(name, Training())
    model.fit(samples, known[:1_500])
    forecast = model.predict(samples, known[2_000:2_100])
    assert forecast.prices.shape == (100, 7)
    assert np.all(np.diff(forecast.prices, axis=1) >= 0)
    assert np.all(forecast.sigma > 0)


def test_a_saved_baseline_forecasts_the_same(samples: Samples) -> None:
    known = samples.anchors[samples.learnable]
    model, again = Har(rich=True), Har()
    model.fit(samples, known[:1_500])
    again.load(model.save())
    at = known[2_000:2_010]
    np.testing.assert_array_equal(model.predict(samples, at).prices, again.predict(samples, at).prices)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ForecastError, match="lstm-deluxe"):
        make("lstm-deluxe", Training())
