"""Column names are read from a DDL."""

from batch.schemas import HOURLY, RAW, column_names


def test_column_names_skip_nested_types() -> None:
    assert column_names("a STRING, b MAP<STRING, STRUCT<x: INT, y: INT>>, c ARRAY<STRING>") == ("a", "b", "c")
    assert len(set(column_names(RAW))) == len(column_names(RAW))
    assert column_names(HOURLY)[:2] == ("symbol", "hour_start")
