"""Walk-forward losses by hour, kept on HDFS beside a market's versions, for contests between recipes."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clients.webhdfs import Storage
from forecasting.data.samples import Samples
from forecasting.evaluation.walk_forward import WalkForward, pinball
from forecasting.registry.promotion import Record
from marketdata.errors import StorageError
from marketdata.parquet import read_parquet


def _path(folder: str, recipe: str) -> str:
    return f"{folder}/walk_forward/{recipe}.parquet"


def write_walk(storage: Storage, folder: str, recipe: str, run: WalkForward, samples: Samples) -> None:
    """Store the losses of calibrated forecasts, a row an hour, in bp."""
    centre = run.raw.point / samples.widening[run.raw.anchors]
    table = pa.table(
        {
            "hour_start_ms": samples.hours.start_ms[run.raw.anchors],
            "pinball_bps": pinball(run.calibrated.quantiles, run.truth) * 1e4,
            "covered_90": run.calibrated.covered,
            "error": run.truth - centre,
            "truth": run.truth,
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    storage.write(_path(folder, recipe), sink.getvalue())


def read_walk(storage: Storage, folder: str, recipe: str) -> Record | None:
    """What `write_walk` stored; None where there is none.

    Raises:
        StorageError: the file is not one of these.
    """
    path = _path(folder, recipe)
    if not storage.exists(path):
        return None
    try:
        held = read_parquet(storage.read(path)).to_pydict()
        error, truth = np.asarray(held["error"]), np.asarray(held["truth"])
        return Record(
            start_ms=np.asarray(held["hour_start_ms"], dtype=np.int64),
            pinball=np.asarray(held["pinball_bps"], dtype=float),
            covered=np.asarray(held["covered_90"], dtype=bool),
            rmse_over_last_price=float(np.sqrt(np.mean(error**2) / np.mean(truth**2))),
        )
    except (pa.ArrowInvalid, KeyError) as problem:
        raise StorageError(f"{path}: not a walk-forward record: {problem!r}") from problem
