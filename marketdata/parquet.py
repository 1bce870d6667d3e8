"""Read Parquet files from bytes, as WebHDFS returns them."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of a Parquet file.

    Decodes in the calling thread. A thread of Arrow's pool could hold the last reference to `content` at interpreter
    exit; acquiring the GIL then aborts the process after its work is done
    (https://github.com/apache/arrow/issues/34314).

    Args:
        content: the whole file.
        columns: names of the columns to read; None: all.

    Raises:
        pyarrow.ArrowInvalid: the bytes are not a Parquet file.
    """
    source = pa.BufferReader(content)
    return pq.ParquetFile(source).read(columns=None if columns is None else list(columns), use_threads=False)
