"""Training of one market's model: read rows, fit, check on held-out hours, publish a version, decide on promotion."""

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clients.webhdfs import WebHdfs
from config.sections import ForecastingSettings
from forecasting.data.hourly_grid import Ints, describe, to_hours, to_parquet
from forecasting.data.hourly_store import HourlyStore
from forecasting.data.samples import WEEK_H, Samples, build_samples
from forecasting.evaluation.conformal import Calibrator
from forecasting.evaluation.metrics import evaluate, pinball
from forecasting.evaluation.walk_forward import MIN_GAP_H, WalkForward, calibrate
from forecasting.models.catalogue import REFERENCE, make
from forecasting.models.interface import Model, Progress
from forecasting.models.lstm_plain import TEST_SHARE
from forecasting.models.network import Training
from forecasting.registry import promotion
from forecasting.registry.probe import check_probe, make_probe
from forecasting.registry.promotion import Verdict
from forecasting.registry.versions import Registry, Version, canonical_json, version_name
from forecasting.registry.walk_forward_store import read_losses
from marketdata.errors import ForecastError
from marketdata.times import HOUR_MS, to_rfc3339

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Positions on the hour grid: `fit_on` for the fit; `held_out` starts a gap after the last target of `fit_on`."""

    fit_on: Ints
    held_out: Ints


@dataclass(frozen=True)
class Trained:
    """Result of a training run. metrics: of the held-out hours."""

    version: str
    verdict: Verdict
    metrics: dict[str, Any]
    held_out: WalkForward
    samples: Samples


def training_of(settings: ForecastingSettings) -> Training:
    """Return the training budget of the settings."""
    return Training(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        patience=settings.patience,
        seeds=settings.seeds,
        max_windows=settings.max_windows,
    )


def recipe_of(settings: ForecastingSettings, model: str) -> str:
    """Return a digest of the kind of model. Versions of one recipe differ only in their training rows."""
    kind = {
        "model": model,
        "horizon_h": settings.horizon_h,
        "sequence_h": settings.sequence_h,
        "train_hours": settings.train_hours,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "patience": settings.patience,
        "seeds": list(settings.seeds),
        "max_windows": settings.max_windows,
    }
    return hashlib.sha256(canonical_json(kind)).hexdigest()[:12]


def split(samples: Samples, settings: ForecastingSettings, model: str) -> Split:
    """Hold out the newest calibration hours (the plain LSTM: the newest 20 %), after a gap.

    Raises:
        ForecastError: there are no hours to hold out.
    """
    known = samples.anchors[samples.learnable]
    n = round(TEST_SHARE * len(known)) if model == "lstm-plain" else settings.calibration_hours
    # With little history, hold out a fifth.
    n = min(n, len(known) // 5)
    if n < 1:
        raise ForecastError(f"{len(known)} hours with complete windows: expected at least 5")
    held_out = known[-n:]
    fit_on = known[known + samples.horizon_h <= held_out[0] - MIN_GAP_H]
    return Split(fit_on, held_out)


def load_samples(storage: WebHdfs, folder: str, symbol: str, settings: ForecastingSettings) -> tuple[pa.Table, Samples]:
    """Return the newest rows that a training needs, and their samples."""
    # The windows and trailing weeks of the first anchors need hours before the training span.
    hours = settings.train_hours + settings.sequence_h + WEEK_H
    store = HourlyStore(storage, folder, symbol)
    store.refresh(hours=hours)
    table = store.table(hours)
    samples = build_samples(to_hours(table, symbol), sequence_h=settings.sequence_h, horizon_h=settings.horizon_h)
    return table, samples


def held_out_metrics(run: WalkForward, samples: Samples, split_: Split) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics on the held-out hours: the model's, with skill over the references; and the references'."""
    references: dict[str, Any] = {}
    lines: dict[str, Any] = {}
    for name in (REFERENCE, "ewma", "har"):
        model = make(name, Training())
        model.fit(samples, split_.fit_on)
        other = calibrate(name, model.predict(samples, split_.held_out), samples)
        references[name] = pinball(other.calibrated.quantiles, other.truth)
        lines[name] = evaluate(other, samples)
    return evaluate(run, samples, references), lines


def train(
    storage: WebHdfs,
    *,
    hourly_folder: str,
    registry: Registry,
    symbol: str,
    model_name: str,
    settings: ForecastingSettings,
    progress: Progress,
) -> Trained:
    """Train, check and publish a version, and promote it if the rules allow.

    Raises:
        ForecastError: there is too little history, or the reloaded model does not reproduce its probe.
        StorageError: HDFS failed.
    """
    progress("read hourly rows", 0, 1)
    table, samples = load_samples(storage, hourly_folder, symbol, settings)
    progress("read hourly rows", 1, 1)
    parts = split(samples, settings, model_name)
    model = make(model_name, training_of(settings))
    model.fit(samples, parts.fit_on, progress)
    calibrator = Calibrator()
    run = calibrate(model_name, model.predict(samples, parts.held_out), samples, calibrator)
    own, lines = held_out_metrics(run, samples, parts)
    recipe = recipe_of(settings, model_name)
    progress("publish", 0, 1)
    version, files = _package(table, samples, parts, model, calibrator, own, lines, recipe, settings)
    registry.publish(version, files)
    loaded = registry.load(version)
    verdict = decide(storage, registry, loaded.version, model_name, own, settings)
    progress("publish", 1, 1)
    log.info(
        "trained symbol=%s version=%s held_out_h=%d pinball_bps=%.3f skill_over_last_price=%.4f skill_over_har=%.4f "
        "rmse_over_last_price=%.4f coverage_90=%.3f promoted=%s why=%r",
        symbol,
        version,
        own["n"],
        own["pinball_bps"],
        own[f"pinball_skill_over_{REFERENCE}"],
        own["pinball_skill_over_har"],
        own["rmse_over_last_price"],
        own["coverage_90"],
        verdict.promoted,
        verdict.why,
    )
    return Trained(version, verdict, own, run, samples)


def _package(
    table: pa.Table,
    samples: Samples,
    parts: Split,
    model: Model,
    calibrator: Calibrator,
    own: dict[str, Any],
    lines: dict[str, Any],
    recipe: str,
    settings: ForecastingSettings,
) -> tuple[str, dict[str, bytes]]:
    saved = model.save()
    probe_input, probe_output = make_probe(model, samples, parts.held_out)
    check_probe(
        model,
        probe_input,
        probe_output,
        symbol=samples.hours.symbol,
        sequence_h=samples.sequence_h,
        horizon_h=samples.horizon_h,
    )
    start_ms = samples.hours.start_ms
    through = to_rfc3339(samples.hours.end_ms)
    config = {
        "model": saved.config,
        "binaries": sorted(saved.files),
        "symbol": samples.hours.symbol,
        "recipe": recipe,
        "sequence_h": samples.sequence_h,
        "horizon_h": samples.horizon_h,
        "trained_through": through,
        "weights_through": to_rfc3339(int(start_ms[parts.fit_on[-1]])),
        "held_out_from": to_rfc3339(int(start_ms[parts.held_out[0]])),
        "fit_anchors": len(parts.fit_on),
        "max_windows": settings.max_windows,
        "epochs": settings.epochs,
        "seeds": list(settings.seeds),
        "pooled": False,
    }
    manifest = describe(table)
    weights: bytes = getattr(model, "weights", b"")
    content = canonical_json(config) + canonical_json(manifest) + weights
    files = {
        **saved.files,
        "config.json": canonical_json(config),
        "scaler.json": canonical_json(saved.config["state"]),
        "metrics.json": canonical_json({"held_out": own, "baselines": lines}),
        "calibration.json": canonical_json(calibrator.state()),
        "manifest.json": canonical_json(manifest),
        "rows.parquet": to_parquet(table),
        "probe_input.npz": probe_input,
        "probe_output.npz": probe_output,
    }
    return version_name(model.name, through, content), files


def decide(
    storage: WebHdfs,
    registry: Registry,
    version: Version,
    model_name: str,
    own: dict[str, Any],
    settings: ForecastingSettings,
) -> Verdict:
    """Decide whether a published version becomes champion, and record the decision in the registry."""
    current = registry.champion()
    if current is None and model_name != settings.model:
        verdict = Verdict(promoted=False, why=f"no champion yet: expected {settings.model} as the first")
    elif current is None:
        verdict = promotion.first_of_registry()
    elif current["version"] == version.name:
        return Verdict(promoted=True, why="already the champion")
    else:
        verdict = _compare_with_champion(
            storage, registry, version, current["version"], model_name, own, settings.max_model_age_h
        )
    if verdict.promoted:
        registry.promote(version.name, verdict.as_json())
    else:
        registry.record_attempt(version.name, verdict.as_json())
        log.warning("not promoted version=%s why=%s", version.name, verdict.why)
    return verdict


def _compare_with_champion(
    storage: WebHdfs,
    registry: Registry,
    version: Version,
    champion_name: str,
    model_name: str,
    own: dict[str, Any],
    max_model_age_h: int,
) -> Verdict:
    held_out = (own["coverage_90"], own["rmse_over_last_price"])
    try:
        champion = registry.load(champion_name).version
    except ForecastError as error:
        return promotion.replacement(f"the champion cannot be loaded ({error})", *held_out)
    if champion.recipe == version.recipe:
        return promotion.refresh(*held_out)
    age_h = (version.trained_through_ms - champion.trained_through_ms) / HOUR_MS
    if age_h > max_model_age_h or age_h < 0:
        return promotion.replacement("the champion is too old to serve, or was trained on later hours", *held_out)
    recipes = {model_name: version.recipe, champion.name: champion.recipe, "har": "har"}
    losses = {name: read_losses(storage, registry.folder, recipe) for name, recipe in recipes.items()}
    found = [part for part in losses.values() if part is not None]
    if len(found) < len(losses):
        missing = ", ".join(name for name, part in losses.items() if part is None)
        return Verdict(promoted=False, why=f"no walk-forward losses of {missing}: run `python -m forecasting report`")
    return promotion.contest(found[0], found[1], found[2], registry.attempts())
