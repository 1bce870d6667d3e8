"""The hourly rows of one market, cached in memory and read from Parquet month files."""

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from forecasting.data.hourly_grid import NUMBERS, month_table

_SCHEMA = pa.schema(
    [
        ("symbol", pa.string()),
        ("hour_start", pa.timestamp("ms", "UTC")),
        *[(name, pa.float64()) for name in NUMBERS],
        ("origin", pa.string()),
        ("basis", pa.string()),
    ]
)


class FileVersion(Protocol):
    """Identifies one version of a file: equal only while the file is unchanged."""

    @property
    def path(self) -> str: ...


class Files(Protocol):
    """The part of a storage client that the store needs; `clients.webhdfs` implements it."""

    def files(self, folder: str, suffix: str) -> Sequence[FileVersion]:
        """Return the files of a folder whose names end with `suffix`, sorted by name."""
        ...

    def read_many(self, paths: Sequence[str]) -> list[bytes]:
        """Return the contents of files, in the given order."""
        ...


class HourlyStore:
    """The hourly rows of one market. Only month files that changed are read again."""

    def __init__(self, storage: Files, folder: str, symbol: str) -> None:
        self._storage = storage
        self._folder = folder
        self._symbol = symbol
        self._seen: dict[str, FileVersion] = {}
        self._tables: dict[str, pa.Table] = {}

    def refresh(self, *, hours: int | None = None) -> bool:
        """Read new and changed files; return whether anything changed.

        Args:
            hours: read only the files that may contain the newest `hours` hours; default: all.

        Raises:
            StorageError: a file cannot be read, or its rows are invalid.
        """
        states = self._storage.files(self._folder, ".parquet")
        if hours is not None and states:
            states = states[-(hours // (28 * 24) + 2) :]
        known = {state.path: state for state in states}
        changed = [state for state in states if self._seen.get(state.path) != state]
        if not changed and known.keys() == self._seen.keys():
            return False
        data = self._storage.read_many([state.path for state in changed])
        for state, content in zip(changed, data, strict=True):
            self._tables[state.path] = month_table(content, state.path, self._symbol)
        self._seen = known
        self._tables = {path: table for path, table in self._tables.items() if path in known}
        return True

    def table(self, hours: int | None = None) -> pa.Table:
        """Return all rows in order of time, or the newest `hours` rows."""
        if not self._tables:
            return _SCHEMA.empty_table()
        tables = [self._tables[path] for path in sorted(self._tables)]
        whole = pa.concat_tables(tables, promote_options="permissive")
        return whole if hours is None else whole.slice(max(0, whole.num_rows - hours))
