"""The plain LSTM: five min-max scaled inputs, 60 steps, two LSTM(50) with dropout, Dense(1), MSE; predicts a price.

In hours without quotes (backfill), avg_spread and total_liquidity are masked: 0 after scaling. If they never occurred
in training, they stay masked. The quantiles are conformal: those of (truth - forecast) / sigma on the validation block
of early stopping, which the weights are not fitted to.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from forecasting.data.hourly_grid import Floats, Ints
from forecasting.data.samples import PLAIN_INPUTS, Samples
from forecasting.models import network
from forecasting.models.interface import LEVELS, Forecast, Progress, Saved, no_progress
from forecasting.models.keras_backend import load_keras
from forecasting.models.lstm_quantile import MIN_WINDOWS, VALIDATION_SHARE, split_tail
from forecasting.models.network import Training
from forecasting.models.scaling import Scaler
from marketdata.errors import ForecastError

BATCH_SIZE = 32
TEST_SHARE = 0.2
"""80/20 split by time: the newest share of the hours, which training leaves out and scores."""


class LstmPlain:
    """The model of this module. The batch size is always BATCH_SIZE, and only the first seed is used."""

    name = "lstm-plain"

    def __init__(self, training: Training) -> None:
        self._training = replace(training, batch_size=BATCH_SIZE, seeds=training.seeds[:1])
        self._net: Any = None
        self._inputs: Scaler | None = None
        self._output: Scaler | None = None
        self._residuals: Floats = np.zeros(len(LEVELS))
        self._rms = 1.0
        self._history: list[float] = []

    def fit(self, samples: Samples, anchors: Ints, progress: Progress = no_progress) -> None:
        if len(anchors) < MIN_WINDOWS:
            raise ForecastError(f"{self.name}: {len(anchors)} training windows: expected at least {MIN_WINDOWS}")
        h = samples.horizon_h
        recent = anchors if self._training.max_windows is None else anchors[-self._training.max_windows :]
        fit_on, validate_on = split_tail(recent, VALIDATION_SHARE)
        first, last = int(recent[0]) - samples.sequence_h + 1, int(fit_on[-1]) + 1
        self._inputs = Scaler.min_max(samples.plain[first:last])
        self._output = Scaler.min_max(samples.hours.avg_price[fit_on + h][:, None])
        x = self._inputs.apply(samples.plain[: int(recent[-1]) + 1])[0]
        y = self._output.apply(samples.hours.avg_price[:, None])[0].astype("float32")
        load_keras().utils.set_random_seed(self._training.seeds[0])
        self._net = network.lstm(samples.sequence_h, len(PLAIN_INPUTS), 1, ascending=False)
        self._history = network.train(
            self._net,
            "mean_squared_error",
            (samples.window(x, fit_on).astype("float32"), y[fit_on + h]),
            (samples.window(x, validate_on).astype("float32"), y[validate_on + h]),
            self._training,
            progress,
            "train",
        )
        centre = self._centre(samples, validate_on)
        z = (samples.target[validate_on] - centre) * samples.widening[validate_on] / samples.sigma[validate_on]
        self._residuals = np.quantile(z, LEVELS)
        self._rms = float(np.sqrt(np.mean(z**2)))

    def _centre(self, samples: Samples, anchors: Ints) -> Floats:
        if self._inputs is None or self._output is None:
            raise ForecastError(f"{self.name}: used before it was fitted or loaded")
        x = self._inputs.apply(samples.plain[: int(anchors[-1]) + 1])[0]
        scaled = network.run(self._net, samples.window(x, anchors).astype("float32"))[:, 0].astype(float)
        price = scaled * self._output.scale[0] + self._output.shift[0]
        last = samples.hours.last_price[anchors]
        # The net can predict any price, even a negative one; limit it so that the logarithm exists.
        out: Floats = np.log(np.maximum(price, 0.1 * last) / last)
        return out

    def predict(self, samples: Samples, anchors: Ints) -> Forecast:
        sigma = samples.sigma[anchors]
        centre = self._centre(samples, anchors)
        return Forecast(
            anchors=anchors,
            log_quantiles=centre[:, None] + sigma[:, None] * self._residuals,
            point=centre,
            sigma=sigma * self._rms,
            last_price=samples.hours.last_price[anchors],
        )

    def save(self) -> Saved:
        if self._inputs is None or self._output is None:
            raise ForecastError(f"{self.name}: saved before it was fitted")
        state = {
            "inputs": self._inputs.state(),
            "output": self._output.state(),
            "residuals": self._residuals.tolist(),
            "rms": self._rms,
        }
        config = {
            "name": self.name,
            "inputs": list(PLAIN_INPUTS),
            "inputs_masked": [n for n, seen in zip(PLAIN_INPUTS, self._inputs.seen, strict=True) if not seen],
            "masking": "a missing input is 0 after scaling; an input never known in training stays 0",
            "levels": list(LEVELS),
            "target": "next avg_price, min-max scaled on the training part",
            "state": state,
            "validation_loss": {str(self._training.seeds[0]): self._history},
        }
        return Saved(config=config, files={"model.keras": network.to_bytes(self._net)})

    def load(self, saved: Saved) -> None:
        try:
            state = saved.config["state"]
            self._inputs = Scaler.from_state(state["inputs"])
            self._output = Scaler.from_state(state["output"])
            self._residuals = np.asarray(state["residuals"], dtype=float)
            self._rms = float(state["rms"])
            self._net = network.from_bytes(saved.files["model.keras"])
        except (KeyError, TypeError, ValueError) as error:
            raise ForecastError(f"{self.name}: a part of the saved model is missing or wrong: {error!r}") from error

    @property
    def weights(self) -> bytes:
        """The weights as bytes, for a digest of the model."""
        return network.weights_digest_input(self._net)
