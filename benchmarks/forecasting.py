"""Read data, fit models and predict, with the product's code on two years of synthetic hours."""

import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks.report import Bench, Row, median_seconds
from clients.webhdfs import WebHdfs
from devstack.stack import ROOT
from forecasting.data.hourly_grid import to_hours
from forecasting.data.hourly_store import HourlyStore
from forecasting.data.samples import Samples, build_samples
from forecasting.models.catalogue import make
from forecasting.models.lstm_quantile import VALIDATION_SHARE, split_tail
from forecasting.models.network import Training
from tests.support.forecasting_hours import store, walk
from tests.support.stack import alone

HOURS = 17_520
WINDOWS = 4_000
EPOCHS = (1, 4)
IMPORTS = {
    "import: storage, dataset, samples": "import forecasting.data.hourly_grid, forecasting.data.samples",
    "import: Keras with its back end": "from forecasting.models.keras_backend import load_keras; load_keras()",
}


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _imports() -> list[Row]:
    found = []
    for name, words in IMPORTS.items():
        command = [sys.executable, "-c", words]
        taken = median_seconds(lambda command=command: subprocess.run(command, check=True, cwd=ROOT), 3)  # type: ignore[misc]
        found.append(Row(name, taken, "s"))
    return found


def _network(samples: Samples, name: str, har_ms: float) -> list[Row]:
    """Time fits with 1 and 4 epochs: the difference is the cost of 3 epochs, the rest is compilation."""
    anchors = samples.anchors[samples.learnable]
    n_trained = len(split_tail(anchors[-WINDOWS:], VALIDATION_SHARE)[0])
    first = _seconds(lambda: make(name, _training(EPOCHS[0])).fit(samples, anchors))
    few, more = (
        _seconds(lambda epochs=epochs: make(name, _training(epochs)).fit(samples, anchors))  # type: ignore[misc]
        for epochs in EPOCHS
    )
    epoch_s = (more - few) / (EPOCHS[1] - EPOCHS[0])
    model = make(name, _training(1))
    model.fit(samples, anchors)
    last = samples.anchors[-1:]
    predict_s = median_seconds(lambda: model.predict(samples, last), 20)
    return [
        Row(
            f"{name}: fit, {WINDOWS:,} windows of {samples.sequence_h} h",
            epoch_s / n_trained * 1e6,
            "µs/sample and epoch",
        ),
        Row(f"{name}: first fit of a process, less its epoch", first - epoch_s, "s"),
        Row(f"{name}: predict, one row", predict_s * 1e3, "ms", "har predict", predict_s * 1e3 / har_ms),
    ]


def _training(epochs: int) -> Training:
    return Training(epochs=epochs, batch_size=128, patience=100, seeds=(0,), max_windows=WINDOWS)


def rows(bench: Bench) -> list[Row]:
    """Measure imports, reading, fits and single forecasts."""
    found = _imports()
    settings = alone(bench.stack.settings, bench.folder / "forecasting")
    storage = WebHdfs(settings.hdfs)
    storage.wait()
    store(settings.hdfs, walk(HOURS))
    read = median_seconds(lambda: HourlyStore(storage, settings.hdfs.hourly_metrics, "BTC-USD").refresh(), 3)
    held = HourlyStore(storage, settings.hdfs.hourly_metrics, "BTC-USD")
    held.refresh()
    again = median_seconds(held.refresh)
    found.append(Row(f"read {HOURS:,} hours from HDFS", read, "s"))
    found.append(Row("look for changed files", again, "s", "read all", again / read))
    hours = to_hours(held.table(), "BTC-USD")
    taken = median_seconds(lambda: build_samples(hours, sequence_h=60), 3)
    found.append(Row("build samples", taken, "s"))
    samples = build_samples(hours, sequence_h=60)
    anchors = samples.anchors[samples.learnable]
    for name in ("har", "har-rich"):
        fitted = median_seconds(lambda name=name: make(name, Training()).fit(samples, anchors), 3)  # type: ignore[misc]
        found.append(Row(f"{name}: fit, {np.size(anchors):,} hours", fitted * 1e3, "ms"))
    har = make("har", Training())
    har.fit(samples, anchors)
    har_ms = median_seconds(lambda: har.predict(samples, samples.anchors[-1:])) * 1e3
    found.append(Row("har: predict, one row", har_ms, "ms"))
    for name in ("lstm-quantile", "lstm-plain"):
        found += _network(samples, name, har_ms)
    return found
