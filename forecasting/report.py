"""Walk-forward comparison of all models, as Markdown, JSON and a plot in `forecasting.report_dir`."""

import logging
import math
from dataclasses import replace
from typing import Any

from clients.webhdfs import WebHdfs
from config.settings import Settings
from forecasting.data.hourly_grid import describe
from forecasting.data.samples import Samples
from forecasting.evaluation import plots
from forecasting.evaluation.metrics import evaluate, pinball
from forecasting.evaluation.walk_forward import MIN_GAP_H, WalkForward, calibrate, walk_forward
from forecasting.models import catalogue
from forecasting.models.interface import Progress
from forecasting.models.network import Training
from forecasting.registry.versions import Registry, canonical_json
from forecasting.registry.walk_forward_store import write_losses
from forecasting.training.trainer import load_samples, recipe_of, training_of
from marketdata.errors import ForecastError
from marketdata.times import to_rfc3339

log = logging.getLogger(__name__)

SCORED_SHARE = 0.6
REFIT_H = 720
QUICK_REFIT_SHARE = 0.5
QUICK_EPOCHS = 4
QUICK_WINDOWS = 6_000
NETS = ("lstm-quantile", "lstm-plain")
SLOW = (*NETS, "gradient-boosting")
REFERENCES = ("last-price", "ewma", "har")
_NOTE = """RMSE is relative to the last price: R² or MAPE of price levels would make any model look good. Skill is
1 − pinball loss / pinball loss of the reference, both after adaptive conformal calibration. Direction is relative to
the last price, with the p value of Pesaran and Timmermann; a dash means that the model predicts no direction.
Persistence is naive, because averages of a random walk are autocorrelated."""
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("model", "model", "s"),
    ("n", "n", "d"),
    ("rmse_bps", "RMSE, bps", ".2f"),
    ("rmse_over_last_price", "RMSE over last price", ".4f"),
    ("clark_west_t", "Clark-West t", ".2f"),
    ("direction_share", "direction", ".3f"),
    ("direction_p", "PT p", ".3f"),
    ("pinball_bps", "pinball, bps", ".3f"),
    ("pinball_skill_over_last-price", "skill over constant width", ".2%"),
    ("pinball_t_over_last-price", "DM t", ".1f"),
    ("pinball_skill_over_ewma", "skill over EWMA", ".2%"),
    ("pinball_t_over_ewma", "DM t", ".1f"),
    ("pinball_skill_over_har", "skill over HAR", ".2%"),
    ("pinball_t_over_har", "DM t", ".1f"),
    ("coverage_80", "80 %", ".3f"),
    ("coverage_90", "90 %", ".3f"),
    ("coverage_90_raw", "90 % raw", ".3f"),
    ("coverage_95", "95 %", ".3f"),
    ("worst_week_coverage_90", "worst week", ".3f"),
    ("winkler_90_bps", "Winkler 90, bps", ".1f"),
    ("qlike", "QLIKE", ".3f"),
)


def write_report(
    storage: WebHdfs,
    settings: Settings,
    *,
    symbol: str,
    names: list[str] | None,
    quick: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Run all models through the same walk-forward and write the report.

    The references (last price, EWMA, HAR) always run, and run first. Unless `quick`, the losses by hour are stored in
    the registry's folder, where promotion compares recipes.

    Args:
        storage: HDFS, with hourly rows and models.
        settings: all settings.
        symbol: the market.
        names: models to compare; None: all.
        quick: few refits and epochs, one seed; the result is not reliable.
        progress: called after each refit and epoch.

    Returns:
        The content of `forecasting.json`.

    Raises:
        ForecastError: a model is unknown, or there is too little history.
        StorageError: HDFS failed.
    """
    forecasting = settings.forecasting
    unknown = set(names or ()) - set(catalogue.NAMES)
    if unknown:
        raise ForecastError(f"models: {sorted(unknown)}: expected any of {', '.join(catalogue.NAMES)}")
    chosen = list(dict.fromkeys([*REFERENCES, *(names or catalogue.NAMES)]))
    table, samples = load_samples(storage, settings.hdfs.hourly_metrics, symbol, forecasting)
    known = samples.anchors[samples.learnable]
    first = int(known[int(len(known) * (1 - SCORED_SHARE))])
    training = training_of(forecasting)
    if quick:
        training = replace(training, epochs=QUICK_EPOCHS, seeds=training.seeds[:1], max_windows=QUICK_WINDOWS)
    runs: dict[str, WalkForward] = {}
    references: dict[str, Any] = {}
    lines: list[dict[str, Any]] = []
    for name in chosen:
        refit_h = _refit_h(name, len(samples.hours) - first, quick=quick)
        runs[name] = _run(name, samples, first, refit_h, training, progress)
        if name in REFERENCES:
            # The calibrated reference is slightly better than the raw one, and therefore the harder comparison.
            references[name] = pinball(runs[name].calibrated.quantiles, runs[name].truth)
        lines.append({**evaluate(runs[name], samples, references), "refit_every_h": refit_h})
        if not quick:
            recipe = recipe_of(forecasting, name) if name in NETS else name
            write_losses(storage, Registry(storage, settings.hdfs.models, symbol).folder, recipe, runs[name], samples)
    document = {
        "symbol": symbol,
        "quick": quick,
        "gap_h": MIN_GAP_H,
        "scored_from": to_rfc3339(int(samples.hours.start_ms[first])),
        "scored_to": to_rfc3339(samples.hours.end_ms),
        "epochs": training.epochs,
        "seeds": list(training.seeds),
        "max_windows": training.max_windows,
        "data": describe(table),
        "lines": lines,
    }
    folder = forecasting.report_dir
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "forecasting.json").write_bytes(canonical_json(document))
    (folder / "forecasting.md").write_text(markdown(document), encoding="utf-8")
    plotted = next((name for name in NETS if name in runs), chosen[-1])
    plot = plots.draw(runs[plotted], samples, f"{symbol}: walk-forward, {plotted}")
    (folder / "forecasting.png").write_bytes(plot)
    log.info("report written folder=%s models=%d", folder, len(lines))
    return document


def _refit_h(name: str, scored_h: int, *, quick: bool) -> int:
    if quick and name in SLOW:
        return max(REFIT_H, round(scored_h * QUICK_REFIT_SHARE))
    return REFIT_H


def _run(name: str, samples: Samples, first: int, refit_h: int, training: Training, progress: Progress) -> WalkForward:
    model, forecast = walk_forward(
        lambda: catalogue.make(name, training), samples, first=first, refit_every_h=refit_h, progress=progress
    )
    return calibrate(model, forecast, samples)


def markdown(document: dict[str, Any]) -> str:
    """Return the report as Markdown: span and data, a table of the metrics, and notes."""
    heads = " | ".join(head for _, head, _ in COLUMNS)
    rows = [f"| {heads} |", "|" + "---|" * len(COLUMNS)]
    for line in document["lines"]:
        cells = [_cell(line.get(key), spec) for key, _, spec in COLUMNS]
        rows.append(f"| {' | '.join(cells)} |")
    data = document["data"]
    budget = f"at most {document['epochs']} epochs, {len(document['seeds'])} seed(s)"
    quick = ", quick" if document["quick"] else ""
    bases = ", ".join(f"{count} {basis}" for basis, count in data["by_basis"].items())
    return "\n".join(
        [
            f"# Forecasts of {document['symbol']}, next hour's average price",
            "",
            f"Walk-forward from {document['scored_from']} to {document['scored_to']}, gap {document['gap_h']} h;",
            f"{budget}{quick}. Rows: {data['rows']} ({bases}), SHA-256 {data['sha256'][:16]}….",
            "",
            *rows,
            "",
            _NOTE,
            "",
        ]
    )


def _cell(value: Any, spec: str) -> str:
    unknown = value is None or (isinstance(value, float) and not math.isfinite(value))
    return "–" if unknown else format(value, spec)
