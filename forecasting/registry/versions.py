"""Model versions on HDFS: `models/SYMBOL/versions/VERSION/…`, and an append-only pointer to the champion.

A version is complete if its file `_SUCCESS` exists. It is used only after its reloaded model reproduced its stored
probe. Its name is derived from its content (trained_through and a digest), not from a clock.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from clients.webhdfs import FileState, WebHdfs
from forecasting.evaluation.conformal import Calibrator
from forecasting.models import catalogue
from forecasting.models.interface import Model, Saved
from forecasting.models.network import Training
from forecasting.registry.probe import check_probe
from marketdata.errors import ForecastError, InvalidValueError, StorageError
from marketdata.times import from_rfc3339, from_wire

log = logging.getLogger(__name__)

SUCCESS = "_SUCCESS"
_VERSION = re.compile(r"(.+)-\d{8}T\d{2}-[0-9a-f]{10}")


@dataclass(frozen=True)
class Version:
    """A published version.

    name: such as `lstm-quantile-20240805T00-1f2e3d4c5b`. trained_through: end of the newest hour used, RFC 3339; the
    weights are fitted to hours up to a gap and the calibration hours before it. recipe: digest of what defines the
    kind of model. config, metrics: contents of `config.json` and `metrics.json`.
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
    """A version that passed its probe. calibrated_from_ms: end of the newest hour in its calibrator."""

    version: Version
    model: Model
    calibrator: Calibrator
    calibrated_from_ms: int


def version_name(model: str, trained_through: str, content: bytes) -> str:
    """Return a version's name: model, hour of `trained_through` (RFC 3339) and digest of the content."""
    compact = trained_through[:13].replace("-", "")
    return f"{model}-{compact}-{hashlib.sha256(content).hexdigest()[:10]}"


def model_of(version: str) -> str:
    """Return the model's name in a version's name. A baseline's version is its name."""
    match = _VERSION.fullmatch(version)
    return match[1] if match else version


def canonical_json(value: Any) -> bytes:
    """Encode plain data as JSON: keys sorted, so that equal content has equal bytes; NaN and infinity become null.

    Raises:
        TypeError: the data contains a type without a JSON form; of numpy, only floats are converted.
    """
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=_numpy_float, order="deterministic"), indent=1)


def _numpy_float(value: Any) -> float:
    if isinstance(value, np.floating):
        return float(value)
    raise TypeError(f"{type(value).__name__}: expected plain data or a numpy float")


def _promotion(data: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("version"), str) and entry["version"] else None


class Registry:
    """The versions of one market."""

    def __init__(self, storage: WebHdfs, root: str, symbol: str) -> None:
        self._storage = storage
        self._symbol = symbol
        self.folder = f"{root}/{symbol}"
        self._damaged: set[FileState] = set()  # logged

    def path(self, name: str, file: str) -> str:
        return f"{self.folder}/versions/{name}/{file}"

    def versions(self) -> list[str]:
        """Names of the complete versions, sorted."""
        names = self._storage.folders(f"{self.folder}/versions")
        return [name for name in names if self._storage.exists(self.path(name, SUCCESS))]

    def publish(self, name: str, files: dict[str, bytes]) -> bool:
        """Store a version's files, `_SUCCESS` last; return False if the version already exists."""
        if self._storage.exists(self.path(name, SUCCESS)):
            return False
        for file, data in files.items():
            self._storage.write(self.path(name, file), data)
        self._storage.write(self.path(name, SUCCESS), b"")
        log.info("published version=%s files=%d", name, len(files))
        return True

    def read_version(self, name: str) -> Version:
        """Return a version's description, without its model.

        Raises:
            ForecastError: the version is not complete, or its description is damaged.
            StorageError: HDFS is unavailable.
        """
        if not self._storage.exists(self.path(name, SUCCESS)):
            raise ForecastError(f"{name}: no {SUCCESS}: not a complete version")
        texts = {file: self._read(name, file) for file in ("config.json", "metrics.json")}
        try:
            config, metrics = (json.loads(text) for text in texts.values())
            version = Version(self._symbol, name, config["trained_through"], config["recipe"], config, metrics)
            from_wire(version.trained_through, "trained_through")
        except KeyError as error:
            raise ForecastError(f"{name}: config.json: {error} missing") from error
        except (TypeError, ValueError, RecursionError, InvalidValueError) as error:
            raise ForecastError(f"{name}: config.json or metrics.json: damaged: {error!r}") from error
        return version

    def load(self, name: str) -> Loaded:
        """Load a version and check its probe.

        Raises:
            ForecastError: the version is not complete, a file of it is missing or damaged, or its model does not
                reproduce its probe.
            StorageError: HDFS is unavailable.
        """
        try:
            return self._load(name)
        except (ForecastError, StorageError):
            raise
        except Exception as error:
            # Each library raises its own errors for damaged bytes: BadZipFile, zlib.error, EOFError, RecursionError, …
            raise ForecastError(f"{name}: damaged: {error!r}") from error

    def _load(self, name: str) -> Loaded:
        version = self.read_version(name)
        config = version.config
        model = catalogue.make(config["model"]["name"], Training())
        files = {file: self._read(name, file) for file in config["binaries"]}
        model.load(Saved(config["model"], files))
        check_probe(
            model,
            self._read(name, "probe_input.npz"),
            self._read(name, "probe_output.npz"),
            symbol=self._symbol,
            sequence_h=config["sequence_h"],
            horizon_h=config["horizon_h"],
        )
        calibration = json.loads(self._read(name, "calibration.json"))
        return Loaded(version, model, Calibrator.from_state(calibration), from_wire(version.trained_through))

    def _read(self, name: str, file: str) -> bytes:
        path = self.path(name, file)
        if not self._storage.exists(path):  # not a StorageError, which would be retried for as long as it is missing
            raise ForecastError(f"{name}: {file}: missing")
        return self._storage.read(path)

    def promoted(self) -> Iterator[dict[str, Any]]:
        """Yield the promotions (`version`, `why`, `provisional`, …), newest first; log and skip damaged ones.

        Raises:
            StorageError: HDFS is unavailable.
        """
        for file in reversed(self._storage.files(f"{self.folder}/champion", ".json")):
            entry = _promotion(self._storage.read(file.path))
            if entry is not None:
                yield entry
            elif file not in self._damaged:
                self._damaged.add(file)
                log.error(
                    "%s: damaged: expected a JSON object with a version; the promotion before it is used", file.path
                )

    def champion(self) -> dict[str, Any] | None:
        """The newest promotion that can be read; None if there is none."""
        return next(self.promoted(), None)

    def load_champion(self, unusable: set[str], current: Loaded | None = None) -> tuple[Loaded, dict[str, Any]] | None:
        """Load the newest promoted version that can be used, with its promotion; None if there is none.

        Args:
            unusable: names of versions to skip; those that cannot be used are logged and added.
            current: a loaded version, which is not loaded again.

        Raises:
            StorageError: HDFS is unavailable.
        """
        for entry in self.promoted():
            name = entry["version"]
            if current is not None and name == current.version.name:
                return current, entry
            if name in unusable:
                continue
            try:
                return self.load(name), entry
            except ForecastError as error:
                unusable.add(name)
                log.error("symbol=%s version=%s cannot be used: %s", self._symbol, name, error)  # noqa: TRY400
        return None

    def challengers(self, champion: str | None) -> dict[str, str]:
        """Newest complete version of each model other than the champion's, by model name."""
        names = self._storage.folders(f"{self.folder}/versions")
        found: dict[str, str] = {}
        for name in reversed(names):  # names contain the hour: the newest version of a model comes first
            model = model_of(name)
            if model == (champion and model_of(champion)) or model in found:
                continue
            if self._storage.exists(self.path(name, SUCCESS)):
                found[model] = name
        return found

    def promotions(self) -> int:
        return len(self._storage.files(f"{self.folder}/champion", ".json"))

    def attempts(self) -> int:
        """Number of refused challengers since the champion's promotion."""
        return len(self._storage.files(f"{self.folder}/judged/{self.promotions():06d}", ".json"))

    def record_attempt(self, version: str, verdict: dict[str, Any]) -> None:
        """Record that a challenger was refused; each attempt makes the next test stricter (see `promotion.contest`)."""
        self._storage.write(f"{self.folder}/judged/{self.promotions():06d}/{version}.json", canonical_json(verdict))

    def promote(self, version: str, verdict: dict[str, Any]) -> None:
        """Append a promotion; the newest file names the champion.

        Raises:
            StorageError: another promotion happened at the same time.
        """
        number = self.promotions() + 1
        path = f"{self.folder}/champion/{number:06d}.json"
        if self._storage.exists(path):
            raise StorageError(f"{path}: already exists: another promotion happened at the same time")
        self._storage.write(path, canonical_json({"version": version, "number": number, **verdict}), overwrite=False)
        log.info("promoted version=%s number=%d why=%s", version, number, verdict.get("why"))
