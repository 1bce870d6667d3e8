"""Training with Keras, and the registry on HDFS."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clients.webhdfs import WebHdfs
from config import Settings
from config.sections import ForecastingSettings
from forecasting.data.hourly_grid import to_hours
from forecasting.data.samples import Samples, build_samples
from forecasting.evaluation.walk_forward import calibrate
from forecasting.models import network
from forecasting.models.interface import no_progress
from forecasting.models.keras_backend import load_keras
from forecasting.models.lstm_plain import LstmPlain
from forecasting.models.lstm_quantile import LstmQuantile
from forecasting.models.network import Training
from forecasting.registry.versions import SUCCESS, Registry
from forecasting.serving.predictor import forecast_set
from forecasting.training.trainer import Trained, train
from marketdata.errors import ForecastError
from marketdata.times import HOUR_MS
from tests.support.forecasting_hours import SCHEMA, store, walk
from tests.support.stack import StackUnderTest

SYMBOL = "BTC-USD"
SMALL = ForecastingSettings(train_hours=1_000, calibration_hours=150, epochs=1, max_windows=400, seeds=(0,))
ROWS = walk(1_200)


@dataclass(frozen=True)
class Trainee:
    settings: Settings
    storage: WebHdfs
    registry: Registry

    def train(self, model: str = "lstm-quantile", budget: ForecastingSettings = SMALL) -> Trained:
        return train(
            self.storage,
            hourly_folder=self.settings.hdfs.hourly_metrics,
            registry=self.registry,
            symbol=SYMBOL,
            model_name=model,
            settings=budget,
            progress=no_progress,
        )


def trainee_in(settings: Settings, rows: pa.Table = ROWS) -> Trainee:
    storage = WebHdfs(settings.hdfs)
    storage.wait()
    store(settings.hdfs, rows)
    return Trainee(settings, storage, Registry(storage, settings.hdfs.models, SYMBOL))


@pytest.fixture
def trainee(settings: Settings) -> Trainee:
    return trainee_in(settings)


@pytest.fixture(scope="module")
def trained_once(stack: StackUnderTest) -> tuple[Trainee, Trained]:
    """One training that several tests inspect."""
    hdfs = stack.settings.hdfs.model_copy(update={"root": "/forecasting-training"})
    made = trainee_in(stack.settings.model_copy(update={"hdfs": hdfs}))
    return made, made.train()


def test_a_version_is_complete_and_the_first_is_champion_provisionally(trained_once: tuple[Trainee, Trained]) -> None:
    trainee, trained = trained_once
    files = {
        "model.keras",
        "scaler.json",
        "config.json",
        "metrics.json",
        "calibration.json",
        "manifest.json",
        "rows.parquet",
        "probe_input.npz",
        "probe_output.npz",
        SUCCESS,
    }
    for file in files:
        assert trainee.storage.exists(trainee.registry.path(trained.version, file)), file
    assert trainee.registry.versions() == [trained.version]
    champion = trainee.registry.champion()
    assert champion is not None
    assert champion["version"] == trained.version
    assert champion["provisional"]
    assert "provisionally" in champion["why"]
    loaded = trainee.registry.load(trained.version)
    assert len(loaded.calibrator) == 150
    metrics = loaded.version.metrics["held_out"]
    assert metrics["n"] == 150
    assert {"pinball_skill_over_last-price", "pinball_skill_over_har", "rmse_over_last_price"} <= metrics.keys()


def test_a_loaded_champion_predicts_as_the_trained_model_did(trained_once: tuple[Trainee, Trained]) -> None:
    trainee, trained = trained_once
    loaded = trainee.registry.load(trained.version)
    samples = trained.samples
    at = int(samples.anchors[-1])
    forecasts = forecast_set(samples, at, loaded, SMALL, issued_at_ms=samples.hours.end_ms)
    champion, har, last = forecasts.predictions
    assert (champion.role, champion.model_version, champion.stale_reason) == ("champion", trained.version, None)
    assert [har.stale_reason, last.stale_reason] == [None, None]
    assert champion.lower < champion.pred_avg_price < champion.upper
    assert champion.n_calib == 150
    assert champion.trained_through == loaded.version.trained_through


def test_an_old_champion_is_replaced_by_the_baseline_with_a_reason(trained_once: tuple[Trainee, Trained]) -> None:
    trainee, trained = trained_once
    loaded = trainee.registry.load(trained.version)
    later = walk(1_200 + SMALL.max_model_age_h + 1)
    samples = build_samples(to_hours(later, SYMBOL), sequence_h=60)
    forecasts = forecast_set(samples, len(samples.hours) - 1, loaded, SMALL, issued_at_ms=samples.hours.end_ms)
    assert [p.role for p in forecasts.predictions] == ["baseline", "baseline"]
    assert str(forecasts.predictions[0].stale_reason).startswith("model_too_old")


def test_later_rows_change_no_forecast_of_the_net(trained_once: tuple[Trainee, Trained]) -> None:
    trainee, trained = trained_once
    model = trainee.registry.load(trained.version).model
    cut = 1_100
    rows = ROWS.to_pydict()
    for name in ("avg_price", "last_price", "high_price", "low_price", "avg_volume"):
        rows[name][cut + 1 :] = [value * 1.7 for value in rows[name][cut + 1 :]]

    def quantiles(table: pa.Table) -> np.ndarray:
        samples = build_samples(to_hours(table, SYMBOL), sequence_h=60)
        forecast = model.predict(samples, samples.anchors[(samples.anchors <= cut) & (samples.anchors > 900)])
        return calibrate("net", forecast, samples).calibrated.quantiles

    np.testing.assert_array_equal(quantiles(ROWS), quantiles(pa.table(rows, schema=SCHEMA)))


def test_the_same_rows_and_seed_give_the_same_version(trained_once: tuple[Trainee, Trained]) -> None:
    trainee, trained = trained_once
    again = trainee.train()
    assert again.version == trained.version
    assert again.verdict.why == "already the champion"
    assert trainee.registry.promotions() == 1


def test_a_version_that_was_tampered_with_is_not_used(trainee: Trainee) -> None:
    trained = trainee.train()
    path = trainee.registry.path(trained.version, "probe_output.npz")
    with np.load(io.BytesIO(trainee.storage.read(path))) as archive:
        arrays = dict(archive)
    sink = io.BytesIO()
    np.savez(sink, log_quantiles=arrays["log_quantiles"] + 1e-5, sigma=arrays["sigma"])
    trainee.storage.write(path, sink.getvalue())
    with pytest.raises(ForecastError, match="probe"):
        trainee.registry.load(trained.version)


def test_the_first_champion_is_of_the_model_that_the_settings_name(trainee: Trainee) -> None:
    plain = trainee.train("lstm-plain")
    assert not plain.verdict.promoted
    assert trainee.registry.champion() is None
    assert trainee.registry.challengers(None) == {"lstm-plain": plain.version}
    first = trainee.train()
    assert first.verdict.promoted
    assert trainee.registry.challengers(first.version) == {"lstm-plain": plain.version}


def test_another_recipe_without_walk_forward_losses_stays_a_challenger(trainee: Trainee) -> None:
    first = trainee.train()
    second = trainee.train("lstm-plain")
    assert not second.verdict.promoted
    assert "no walk-forward losses" in second.verdict.why
    champion = trainee.registry.champion()
    assert champion is not None
    assert champion["version"] == first.version
    assert trainee.registry.attempts() == 1
    config = trainee.registry.load(second.version).version.config["model"]
    assert config["inputs"] == ["avg_price", "avg_spread", "total_liquidity", "avg_volatility", "avg_volume"]
    assert config["inputs_masked"] == ["avg_spread", "total_liquidity"]


@pytest.fixture(scope="module")
def samples() -> Samples:
    return build_samples(to_hours(ROWS, SYMBOL), sequence_h=60)


def test_the_mean_of_seeds_is_one_net_that_can_be_saved(samples: Samples) -> None:
    known = samples.anchors[samples.learnable]
    model = LstmQuantile(Training(epochs=1, seeds=(0, 1), max_windows=400))
    model.fit(samples, known[:600])
    forecast = model.predict(samples, known[700:720])
    assert np.all(np.diff(forecast.log_quantiles, axis=1) >= 0)
    again = LstmQuantile(Training())
    again.load(model.save())
    np.testing.assert_allclose(again.predict(samples, known[700:720]).prices, forecast.prices, rtol=1e-6)
    one = again.predict(samples, known[700:701])
    np.testing.assert_allclose(one.prices, forecast.prices[:1], rtol=1e-5)


def test_the_plain_net_has_the_documented_layers_loss_and_optimizer(
    samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_nets: list[Any] = []
    real = network.train

    def train_and_keep(net: Any, *args: Any) -> list[float]:
        trained_nets.append(net)
        return real(net, *args)

    monkeypatch.setattr(network, "train", train_and_keep)
    known = samples.anchors[samples.learnable]
    model = LstmPlain(Training(epochs=1, max_windows=400))
    model.fit(samples, known[:600])
    (trained_net,) = trained_nets
    assert type(trained_net.optimizer).__name__ == "Adam"
    assert trained_net.loss == "mean_squared_error"
    saved_net = network.from_bytes(model.save().files["model.keras"])
    layers = load_keras().layers
    for net in (trained_net, saved_net):
        kinds = [layers.InputLayer, layers.LSTM, layers.Dropout, layers.LSTM, layers.Dropout, layers.Dense]
        assert [type(layer) for layer in net.layers] == kinds
        assert [layer.units for layer in net.layers if isinstance(layer, layers.LSTM)] == [50, 50]
        assert [layer.rate for layer in net.layers if isinstance(layer, layers.Dropout)] == [0.2, 0.2]
        assert net.output_shape == (None, 1)
        assert net.input_shape == (None, 60, 5)


def test_too_little_history_is_refused(settings: Settings) -> None:
    with pytest.raises(ForecastError, match="expected at least"):
        trainee_in(settings, walk(400)).train()


def test_another_recipe_takes_over_from_a_champion_too_old_to_serve(trainee: Trainee) -> None:
    trainee.train()
    store(trainee.settings.hdfs, walk(1_200 + SMALL.max_model_age_h + 1))
    second = trainee.train(budget=SMALL.model_copy(update={"batch_size": 64, "epochs": 3}))
    champion = trainee.registry.champion()
    assert champion is not None
    assert champion["version"] == second.version
    assert champion["provisional"]
    assert "too old" in champion["why"]


def test_training_hours_end_a_gap_before_what_is_held_out(trained_once: tuple[Trainee, Trained]) -> None:
    trainee, trained = trained_once
    config = trainee.registry.read_version(trained.version).config
    from marketdata.times import from_rfc3339

    assert from_rfc3339(config["held_out_from"]) - from_rfc3339(config["weights_through"]) > 60 * HOUR_MS
