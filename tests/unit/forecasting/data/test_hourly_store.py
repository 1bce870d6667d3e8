"""The store of hourly rows: only changed files are read, and only the newest if asked."""

import pytest

from forecasting.data.hourly_store import HourlyStore
from marketdata.errors import StorageError
from tests.support.forecasting_hours import month_files, walk
from tests.support.memory_storage import MemoryStorage

ROWS = walk(100 * 24)  # from January to April


class CountingStorage(MemoryStorage):
    """Counts the files read."""

    def __init__(self) -> None:
        super().__init__({f"/hours/{name}": data for name, data in month_files(ROWS).items()})
        self.reads: list[str] = []

    def read_many(self, paths: list[str]) -> list[bytes]:
        self.reads += [path.rpartition("/")[2] for path in paths]
        return super().read_many(paths)


@pytest.fixture
def storage() -> CountingStorage:
    return CountingStorage()


@pytest.fixture
def store(storage: CountingStorage) -> HourlyStore:
    return HourlyStore(storage, "/hours", "BTC-USD")


def test_only_changed_files_are_read_again(storage: CountingStorage, store: HourlyStore) -> None:
    assert store.refresh()
    assert not store.refresh()
    assert storage.reads == [f"hourly-2023-0{month}.parquet" for month in (1, 2, 3, 4)]
    longer = month_files(walk(100 * 24 + 1))
    storage.contents["/hours/hourly-2023-04.parquet"] = longer["hourly-2023-04.parquet"]
    assert store.refresh()
    assert storage.reads[4:] == ["hourly-2023-04.parquet"]
    assert store.table().num_rows == ROWS.num_rows + 1
    assert store.table(10).num_rows == 10


def test_rows_of_a_deleted_file_are_dropped(storage: CountingStorage, store: HourlyStore) -> None:
    store.refresh()
    del storage.contents["/hours/hourly-2023-01.parquet"]
    assert store.refresh()
    assert store.table().num_rows == ROWS.num_rows - 31 * 24


def test_only_files_with_the_newest_hours_are_read(storage: CountingStorage, store: HourlyStore) -> None:
    store.refresh(hours=24)
    assert storage.reads == ["hourly-2023-03.parquet", "hourly-2023-04.parquet"]


def test_without_files_the_table_has_all_columns_and_no_rows() -> None:
    table = HourlyStore(MemoryStorage(), "/hours", "BTC-USD").table()
    assert table.num_rows == 0
    assert set(table.schema.names) < set(ROWS.schema.names)


def test_an_invalid_file_is_read_again_at_the_next_refresh(storage: CountingStorage, store: HourlyStore) -> None:
    storage.contents["/hours/hourly-2023-04.parquet"] = b"not Parquet"
    for _ in range(2):
        with pytest.raises(StorageError, match="hourly-2023-04"):
            store.refresh()
