"""The quantile LSTM: seven sorted quantiles of target / HAR scale, pinball loss, mean over seeds."""

from typing import Any

import numpy as np

from forecasting.data.hourly_grid import Floats, Ints
from forecasting.data.samples import FLAGS, NET_INPUTS, Samples
from forecasting.models import network
from forecasting.models.baselines import spread_to_sd
from forecasting.models.har import HarScale
from forecasting.models.interface import LEVELS, MEDIAN, Forecast, Progress, Saved, no_progress
from forecasting.models.keras_backend import load_keras
from forecasting.models.network import Training
from forecasting.models.scaling import CLIP, Scaler
from marketdata.errors import ForecastError

GAP_H = 60
VALIDATION_SHARE = 0.1
MIN_WINDOWS = 300


def split_tail(anchors: Ints, share: float, gap_h: int = GAP_H) -> tuple[Ints, Ints]:
    """Split off the last `share` of the anchors; anchors in the gap before them are in neither part."""
    tail = anchors[-max(int(len(anchors) * share), 1) :]
    return anchors[anchors < tail[0] - gap_h], tail


def shrinkage(centre: Floats, truth: Floats) -> float:
    """Return the factor, 0 to 1, from the net's median to the point forecast: the slope of the truth on the median.

    It is fitted on hours the net was not trained on. Hourly means are hardly predictable: without the factor, the RMSE
    of the median is 0.5 % above that of the last price. The quantiles are not shrunk, because that increases the
    pinball loss by 0.3 % (BTC 2023-03 to 2024-12).
    """
    power = float(centre @ centre)
    return float(np.clip(centre @ truth / power, 0.0, 1.0)) if power > 0 else 0.0


class LstmQuantile:
    """The model of this module. Only `fit` uses `training`."""

    name = "lstm-quantile"

    def __init__(self, training: Training) -> None:
        self._training = training
        self._net: Any = None
        self._har = HarScale(rich=True)
        self._scaler: Scaler | None = None
        self._spread_to_sd = 1.0
        self._trust = 1.0
        self._history: dict[str, list[float]] = {}

    def fit(self, samples: Samples, anchors: Ints, progress: Progress = no_progress) -> None:
        if len(anchors) < MIN_WINDOWS:
            raise ForecastError(f"{self.name}: {len(anchors)} training windows: expected at least {MIN_WINDOWS}")
        self._har.fit(samples, anchors)
        recent = anchors if self._training.max_windows is None else anchors[-self._training.max_windows :]
        first, last = int(recent[0]) - samples.sequence_h + 1, int(recent[-1]) + 1
        fit_on, validate_on = split_tail(recent, VALIDATION_SHARE)
        self._scaler = Scaler.standard(samples.net[first : int(fit_on[-1]) + 1])
        z = (samples.target * samples.widening / self._har.at(samples))[:, None].astype("float32")
        # Only rows up to the last anchor are scaled, so later rows cannot be used by mistake.
        inputs = self._inputs(samples, last)
        data = (samples.window(inputs, fit_on).astype("float32"), z[fit_on])
        validation = (samples.window(inputs, validate_on).astype("float32"), z[validate_on])
        keras = load_keras()
        nets = []
        for number, seed in enumerate(self._training.seeds):
            keras.utils.set_random_seed(seed)
            net = network.lstm(samples.sequence_h, inputs.shape[1], len(LEVELS), ascending=True)
            what = "train" if len(self._training.seeds) == 1 else f"train seed {number + 1}/{len(self._training.seeds)}"
            self._history[str(seed)] = network.train(
                net, network.pinball_loss(LEVELS), data, validation, self._training, progress, what
            )
            nets.append(net)
        self._net = network.average(nets)
        raw = network.run(self._net, validation[0]).astype(float)
        self._trust = shrinkage(raw[:, MEDIAN], z[validate_on, 0])
        self._spread_to_sd = spread_to_sd(raw, z[validate_on, 0])

    def _inputs(self, samples: Samples, stop: int) -> Floats:
        if self._scaler is None:
            raise ForecastError(f"{self.name}: used before it was fitted or loaded")
        scaled, missing = self._scaler.apply(samples.net[:stop], clip=CLIP)
        return np.column_stack([scaled, missing[:, -len(FLAGS) :]])

    def predict(self, samples: Samples, anchors: Ints) -> Forecast:
        stop = int(anchors[-1]) + 1
        inputs = self._inputs(samples, stop)
        raw = network.run(self._net, samples.window(inputs, anchors).astype("float32")).astype(float)
        scale = self._har.at(samples)[anchors]
        return Forecast(
            anchors=anchors,
            log_quantiles=raw * scale[:, None],
            point=self._trust * raw[:, MEDIAN] * scale,
            sigma=np.maximum(raw[:, -1] - raw[:, 0], 1e-3) * self._spread_to_sd * scale,
            last_price=samples.hours.last_price[anchors],
        )

    def save(self) -> Saved:
        if self._scaler is None:
            raise ForecastError(f"{self.name}: saved before it was fitted")
        config = {
            "name": self.name,
            "inputs": [*NET_INPUTS, *FLAGS],
            "inputs_masked": [n for n, seen in zip(NET_INPUTS, self._scaler.seen, strict=True) if not seen],
            "levels": list(LEVELS),
            "target": "log(next average / last price) over the HAR scale",
            "state": {
                "har": self._har.state(),
                "scaler": self._scaler.state(),
                "spread_to_sd": self._spread_to_sd,
                "trust_in_median": self._trust,
            },
            "validation_loss": self._history,
        }
        return Saved(config=config, files={"model.keras": network.to_bytes(self._net)})

    def load(self, saved: Saved) -> None:
        try:
            state = saved.config["state"]
            self._har = HarScale.from_state(state["har"])
            self._scaler = Scaler.from_state(state["scaler"])
            self._spread_to_sd = float(state["spread_to_sd"])
            self._trust = float(state["trust_in_median"])
            self._net = network.from_bytes(saved.files["model.keras"])
        except (KeyError, TypeError, ValueError) as error:
            raise ForecastError(f"{self.name}: a part of the saved model is missing or wrong: {error!r}") from error

    @property
    def weights(self) -> bytes:
        """The weights as bytes, for a digest of the model."""
        return network.weights_digest_input(self._net)
