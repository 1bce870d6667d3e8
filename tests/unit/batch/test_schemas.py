"""Column names are read from a DDL, and are those of the records."""

from batch.schemas import CANDLES, HOURLY, RAW, column_names
from marketdata.hourly import SCHEMA
from marketdata.records import Candle, HourlyRow, Tick

_DDL = {"string": "STRING", "timestamp[us, tz=UTC]": "TIMESTAMP", "double": "DOUBLE", "int64": "BIGINT", "int32": "INT"}


def test_column_names_skip_nested_types() -> None:
    assert column_names("a STRING, b MAP<STRING, STRUCT<x: INT, y: INT>>, c ARRAY<STRING>") == ("a", "b", "c")
    assert len(set(column_names(RAW))) == len(column_names(RAW))
    assert column_names(HOURLY)[:2] == ("symbol", "hour_start")


def test_table_columns_match_the_record_fields() -> None:
    hourly = tuple(name for name in HourlyRow.__struct_fields__ if name != "schema_version")
    assert sorted(column_names(HOURLY)) == sorted(hourly)
    tick = {name for name in Tick.__struct_fields__ if name != "sources"}
    assert tick <= set(column_names(RAW))
    candle = {name for name in Candle.__struct_fields__ if name not in {"schema_version", "interval"}}
    assert set(column_names(CANDLES)) == candle


def test_the_kernels_columns_are_those_of_the_table() -> None:
    columns = ", ".join(f"{field.name} {_DDL[str(field.type)]}" for field in SCHEMA)
    assert " ".join(HOURLY.split()) == columns
