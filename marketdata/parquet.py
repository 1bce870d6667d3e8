"""Parquet files as bytes, the way WebHDFS gives and takes them."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a Parquet file, with all columns or some.

    It is decoded in the thread that asks. A thread of Arrow's pool may hold the last claim on `content` when the
    interpreter ends; taking the interpreter's lock then aborts the whole process, after its work was done
    (https://github.com/apache/arrow/issues/34314).

    Raises:
        pyarrow.ArrowInvalid: the bytes are no Parquet file.
    """
    source = pa.BufferReader(content)
    return pq.ParquetFile(source).read(columns=None if columns is None else list(columns), use_threads=False)
