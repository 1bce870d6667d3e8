"""Versions of models on HDFS: `models/SYMBOL/versions/VERSION/…`, and an append-only pointer to the champion.

A version is complete when its `_SUCCESS` stands, and used only after its reloaded model gave its stored probe output
again. Its name comes from what it holds (trained_through and a digest), never from a clock. Imports no Keras itself.
"""

import hashlib
import io
import json
import logging
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from clients.webhdfs import Storage
from forecasting.data.hourly_grid import Floats
from forecasting.data.json_numbers import to_json
from forecasting.data.samples import Samples
from forecasting.evaluation.conformal import Calibrator
from forecasting.models import catalogue
from forecasting.models.interface import Model, Saved
from forecasting.models.network import Training
from marketdata.errors import ForecastError, StorageError
from marketdata.times import from_rfc3339

log = logging.getLogger(__name__)

SUCCESS = "_SUCCESS"
PROBES = 8
_VERSION = re.compile(r"(.+)-\d{8}T\d{2}-[0-9a-f]{10}")
PROBE_TOLERANCE = 1e-4
"""In sigmas of the probe: another machine's floating point differs in the last digits, another net by far more."""


@dataclass(frozen=True)
class Version:
    """A published version.

    name: such as `lstm-quantile-20240805T00-1f2e3d4c5b`. trained_through: the end of the newest hour it has used (its
    weights end a gap and the calibration hours before), RFC 3339. recipe: digest of what defines the kind of model.
    """

    symbol: str
    name: str
    trained_through: str
    recipe: str
    config: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def trained_through_ms(self) -> int:
        return from_rfc3339(self.trained_through, "trained_through")


@dataclass(frozen=True)
class Loaded:
    """A version that passed its probe, ready for use."""

    version: Version
    model: Model
    calibrator: Calibrator
    calibrated_from_ms: int


def version_name(model: str, trained_through: str, content: bytes) -> str:
    """Deterministic: the recipe's name, through when it was trained, and a digest of the content."""
    compact = trained_through[:13].replace("-", "")
    return f"{model}-{compact}-{hashlib.sha256(content).hexdigest()[:10]}"


def model_of(version: str) -> str:
    """The recipe's name in a version's name; of a baseline the name itself."""
    match = _VERSION.fullmatch(version)
    return match[1] if match else version


def _npz(arrays: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)
    return sink.getvalue()


def _arrays(data: bytes, names: tuple[str, ...], where: str) -> dict[str, Floats]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as held:
            return {name: held[name] for name in names}
    except (OSError, ValueError, KeyError) as error:
        raise ForecastError(f"{where}: not a probe: {error!r}") from error


def probe_of(model: Model, samples: Samples, anchors: Any) -> tuple[Samples, bytes, bytes]:
    """The rows that a handful of forecasts need, and those forecasts: (what to forecast from, input, output)."""
    from forecasting.data.hourly_grid import NUMBERS
    from forecasting.data.samples import WEEK_H, build_samples

    need = samples.sequence_h + 2 * WEEK_H + 1_600
    stop = int(anchors[-1]) + 1
    hours = samples.hours.slice(max(0, stop - need), stop)
    inputs = {name: getattr(hours, name) for name in NUMBERS}
    inputs |= {"start_ms": hours.start_ms, "present": hours.present, "live": hours.live, "basis": hours.basis}
    own = build_samples(hours, sequence_h=samples.sequence_h, horizon_h=samples.horizon_h)
    forecast = model.predict(own, own.anchors[-PROBES:])
    output = {"log_quantiles": forecast.log_quantiles, "sigma": forecast.sigma}
    return own, _npz(inputs), _npz(output)


def check_probe(model: Model, inputs: bytes, output: bytes, *, symbol: str, sequence_h: int, horizon_h: int) -> None:
    """Raises ForecastError where the model does not give the stored output for the stored input."""
    from forecasting.data.hourly_grid import NUMBERS, Hours
    from forecasting.data.samples import build_samples

    held = _arrays(inputs, ("start_ms", "present", "live", "basis", *NUMBERS), "probe_input.npz")
    expected = _arrays(output, ("log_quantiles", "sigma"), "probe_output.npz")
    samples = build_samples(Hours(symbol=symbol, **held), sequence_h=sequence_h, horizon_h=horizon_h)  # type: ignore[arg-type]
    got = model.predict(samples, samples.anchors[-PROBES:])
    if got.log_quantiles.shape != expected["log_quantiles"].shape:
        raise ForecastError("probe: another number of forecasts than stored")
    worst = float(np.max(np.abs(got.log_quantiles - expected["log_quantiles"]) / expected["sigma"][:, None]))
    if not worst <= PROBE_TOLERANCE:
        raise ForecastError(f"probe: the model's forecasts differ by {worst:.3g} sigma: expected {PROBE_TOLERANCE:g}")


class Registry:
    """The versions of one market."""

    def __init__(self, storage: Storage, root: str, symbol: str) -> None:
        self._storage = storage
        self._symbol = symbol
        self.folder = f"{root}/{symbol}"

    def path(self, name: str, file: str) -> str:
        return f"{self.folder}/versions/{name}/{file}"

    def versions(self) -> list[str]:
        """The names of complete versions."""
        names = self._storage.folders(f"{self.folder}/versions")
        return [name for name in names if self._storage.exists(self.path(name, SUCCESS))]

    def publish(self, name: str, files: dict[str, bytes]) -> bool:
        """Store a version's files, `_SUCCESS` last; False where the version is there already."""
        if self._storage.exists(self.path(name, SUCCESS)):
            return False
        for file, data in files.items():
            self._storage.write(self.path(name, file), data)
        self._storage.write(self.path(name, SUCCESS), b"")
        log.info("published version=%s files=%d", name, len(files))
        return True

    def read_version(self, name: str) -> Version:
        """A version's description, without its model.

        Raises:
            ForecastError: it is not complete.
        """
        if not self._storage.exists(self.path(name, SUCCESS)):
            raise ForecastError(f"{name}: no {SUCCESS}: not a complete version")
        config = json.loads(self._storage.read(self.path(name, "config.json")))
        metrics = json.loads(self._storage.read(self.path(name, "metrics.json")))
        try:
            return Version(self._symbol, name, config["trained_through"], config["recipe"], config, metrics)
        except KeyError as error:
            raise ForecastError(f"{name}: config.json: {error} missing") from error

    def load(self, name: str) -> Loaded:
        """A version ready for use.

        Raises:
            ForecastError: it is not complete, or its model does not match its probe.
        """
        version = self.read_version(name)
        config = version.config
        model = catalogue.make(config["model"]["name"], Training())
        files = {file: self._storage.read(self.path(name, file)) for file in config["binaries"]}
        model.load(Saved(config["model"], files))
        check_probe(
            model,
            self._storage.read(self.path(name, "probe_input.npz")),
            self._storage.read(self.path(name, "probe_output.npz")),
            symbol=self._symbol,
            sequence_h=config["sequence_h"],
            horizon_h=config["horizon_h"],
        )
        calibration = json.loads(self._storage.read(self.path(name, "calibration.json")))
        return Loaded(version, model, Calibrator.from_state(calibration), from_rfc3339(version.trained_through))

    def champion(self) -> dict[str, Any] | None:
        """The newest promotion: `version`, `why`, `provisional`, …; None where there was none."""
        files = self._storage.files(f"{self.folder}/champion", ".json")
        if not files:
            return None
        entry: dict[str, Any] = json.loads(self._storage.read(files[-1].path))
        return entry

    def challengers(self, champion: str | None) -> dict[str, str]:
        """The newest complete version of every other model than the champion's, by the model's name."""
        names = self._storage.folders(f"{self.folder}/versions")
        found: dict[str, str] = {}
        for name in reversed(names):  # a name ends with its hour: the newest of a model comes first
            model = model_of(name)
            if model == (champion and model_of(champion)) or model in found:
                continue
            if self._storage.exists(self.path(name, SUCCESS)):
                found[model] = name
        return found

    def promotions(self) -> int:
        return len(self._storage.files(f"{self.folder}/champion", ".json"))

    def attempts(self) -> int:
        """How often a challenger was judged since the present champion's promotion."""
        return len(self._storage.files(f"{self.folder}/judged/{self.promotions():06d}", ".json"))

    def record_attempt(self, version: str, verdict: dict[str, Any]) -> None:
        """Note that a challenger was judged and refused; repeated attempts raise the bar."""
        self._storage.write(f"{self.folder}/judged/{self.promotions():06d}/{version}.json", to_json(verdict))

    def promote(self, version: str, verdict: dict[str, Any]) -> None:
        """Append a promotion; the pointer's newest file is the champion.

        Raises:
            StorageError: another promotion was made at the same time.
        """
        number = self.promotions() + 1
        path = f"{self.folder}/champion/{number:06d}.json"
        if self._storage.exists(path):
            raise StorageError(f"{path}: exists: another promotion was made at the same time")
        self._storage.write(path, to_json({"version": version, "number": number, **verdict}), overwrite=False)
        log.info("promoted version=%s number=%d why=%s", version, number, verdict.get("why"))
