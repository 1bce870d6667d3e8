"""Walk-forward losses by hour on HDFS, which promotion uses to compare recipes."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clients.webhdfs import WebHdfs
from forecasting.data.samples import Samples
from forecasting.evaluation.metrics import BPS, pinball
from forecasting.evaluation.walk_forward import WalkForward
from forecasting.registry.promotion import WalkForwardLosses
from marketdata.errors import StorageError
from marketdata.parquet import read_parquet


def _path(folder: str, recipe: str) -> str:
    return f"{folder}/walk_forward/{recipe}.parquet"


def write_losses(storage: WebHdfs, folder: str, recipe: str, run: WalkForward, samples: Samples) -> None:
    """Store the losses of calibrated forecasts: one row per hour, pinball in bps, error and truth in log price."""
    centre = run.raw.point / samples.widening[run.raw.anchors]
    table = pa.table(
        {
            "hour_start_ms": samples.hours.start_ms[run.raw.anchors],
            "pinball_bps": pinball(run.calibrated.quantiles, run.truth) * BPS,
            "covered_90": run.calibrated.covered,
            "error": run.truth - centre,
            "truth": run.truth,
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    storage.write(_path(folder, recipe), sink.getvalue())


def read_losses(storage: WebHdfs, folder: str, recipe: str) -> WalkForwardLosses | None:
    """Return what `write_losses` stored; None if there is no file.

    Raises:
        StorageError: the file does not contain walk-forward losses.
    """
    path = _path(folder, recipe)
    if not storage.exists(path):
        return None
    content = storage.read(path)
    try:
        columns = read_parquet(content).to_pydict()
        error, truth = np.asarray(columns["error"]), np.asarray(columns["truth"])
        return WalkForwardLosses(
            start_ms=np.asarray(columns["hour_start_ms"], dtype=np.int64),
            pinball=np.asarray(columns["pinball_bps"], dtype=float),
            covered=np.asarray(columns["covered_90"], dtype=bool),
            rmse_over_last_price=float(np.sqrt(np.mean(error**2) / np.mean(truth**2))),
        )
    except Exception as problem:
        raise StorageError(f"{path}: not walk-forward losses: {problem!r}") from problem
