"""Month files on the real HDFS are read once."""

import pyarrow as pa
import pytest

from clients.webhdfs import WebHdfs
from config import Settings
from forecasting.data.hourly_grid import to_hours
from forecasting.data.hourly_store import HourlyStore
from tests.support.forecasting_hours import store, walk


def test_only_changed_months_are_read_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = WebHdfs(settings.hdfs)
    storage.wait()
    rows = walk(2_000)
    other = walk(2_000, symbol="ETH-USD", seed=1)
    store(settings.hdfs, rows.slice(0, 1_900), other)
    hourly = HourlyStore(storage, settings.hdfs.hourly_metrics, "BTC-USD")
    assert hourly.refresh()
    assert hourly.table().num_rows == 1_900
    assert not hourly.refresh()
    read: list[str] = []
    inner = storage.read

    def reading(path: str) -> bytes:
        read.append(path)
        return inner(path)

    monkeypatch.setattr(storage, "read", reading)
    month = rows.filter(pa.compute.greater_equal(rows["hour_start"], pa.scalar(_march(), rows["hour_start"].type)))
    store(settings.hdfs, month)
    assert hourly.refresh()
    assert [path.rsplit("/", 1)[1] for path in read] == ["hourly-2023-03.parquet"]
    hours = to_hours(hourly.table(), "BTC-USD")
    assert len(hours) == 2_000
    assert hours.present.all()


def _march() -> int:
    return 1_677_628_800_000_000  # 2023-03-01 in µs
