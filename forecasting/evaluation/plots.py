"""Plots of actual and predicted prices with their band, as PNG, without a display."""

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from forecasting.data.samples import Samples
from forecasting.evaluation.conformal import HEADLINE, TRACKS
from forecasting.evaluation.walk_forward import WalkForward
from marketdata.times import HOUR_MS

SHOWN_H = 168


def draw(run: WalkForward, samples: Samples, title: str, shown_h: int = SHOWN_H) -> bytes:
    """Plot the newest `shown_h` forecasts of a run at their target hours, with the known actual prices."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    anchors = run.raw.anchors[-shown_h:]
    middle_ms = samples.target_start_ms(anchors) + HOUR_MS // 2
    times: Any = [datetime.fromtimestamp(ms / 1000, UTC) for ms in middle_ms]  # matplotlib's type hints lack datetimes
    last = run.raw.last_price[-shown_h:]
    prices = last[:, None] * np.exp(run.calibrated.quantiles[-shown_h:])
    point = last * np.exp((run.raw.point / samples.widening[run.raw.anchors])[-shown_h:])
    actual = last * np.exp(run.truth[-shown_h:])
    inside = run.calibrated.covered[-shown_h:][np.isfinite(actual)]
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    level = TRACKS[HEADLINE][1]
    band = (
        f"{level:.0%} band (coverage {np.mean(inside):.1%}, n = {len(inside)})" if inside.size else f"{level:.0%} band"
    )
    axes.fill_between(times, prices[:, 0], prices[:, -1], color="#4477aa", alpha=0.18, linewidth=0, label=band)
    axes.fill_between(times, prices[:, 2], prices[:, -3], color="#4477aa", alpha=0.25, linewidth=0, label="50% band")
    axes.plot(times, point, color="#4477aa", linewidth=1.2, label="predicted average price")
    axes.plot(times, actual, color="#222222", linewidth=1.2, label="actual average price")
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.set_title(title)
    axes.set_ylabel(f"{samples.hours.symbol.split('-')[1]}")
    axes.set_xlabel("hour (UTC)")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(loc="best", frameon=False)
    figure.autofmt_xdate()
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110)
    return sink.getvalue()


def save(png: bytes, path: Path) -> None:
    """Replace the file atomically, so that a reader never sees part of a plot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".new")
    staged.write_bytes(png)
    staged.replace(path)
