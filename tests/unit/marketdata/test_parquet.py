"""Parquet bytes are decoded in the calling thread."""

import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marketdata.parquet import read_parquet
from tests.support.stack import ROOT

ROWS = pa.table({"symbol": ["BTC-USD", "ETH-USD"] * 500, "hour": range(1000), "price": [0.5, None] * 500})
THREADS = """
import os, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from marketdata.parquet import read_parquet
content, before = Path(sys.argv[1]).read_bytes(), len(os.listdir("/proc/self/task"))
{read}
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.fixture
def content() -> bytes:
    sink = io.BytesIO()
    pq.write_table(ROWS, sink, row_group_size=100)
    return sink.getvalue()


def threads_started_by(read: str, file: Path) -> int:
    command = [sys.executable, "-c", THREADS.format(read=read), str(file)]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60).stdout)


def test_all_rows_and_selected_columns_are_returned(content: bytes) -> None:
    assert read_parquet(content).equals(ROWS)
    assert read_parquet(content, ("hour", "price")).equals(ROWS.select(["hour", "price"]))


def test_other_bytes_are_refused() -> None:
    with pytest.raises(pa.ArrowInvalid, match="Parquet"):
        read_parquet(b"symbol,hour,price\n")


def test_no_thread_remains_that_could_abort_the_exit_of_a_program(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(content)
    assert threads_started_by("read_parquet(content)", file) == 0
    assert threads_started_by("pq.ParquetFile(pa.BufferReader(content)).read()", file) > 0
