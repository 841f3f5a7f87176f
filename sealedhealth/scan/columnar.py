"""Looking into Parquet files: their pages are compressed one by one, by methods that leave no signature."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, BinaryIO

from sealedhealth.scan.contents import PARQUET_MAGIC, Budget

__all__ = ["can_read_parquet", "read_parquet", "search_parquet_bytes"]

_ROWS = 8192  #: rows decoded at once
_BUFFER = 1 << 20  #: bytes of a column chunk that are fetched at once
_STRINGS = 64 << 20  #: most bytes of a text in the file's own description
_PAGES = 1 << 20  #: most parts in the file's own description


def can_read_parquet() -> bool:
    """Whether pyarrow is installed."""
    return find_spec("pyarrow") is not None


def search_parquet_bytes(data: bytes, feed: Callable[[bytes], None], budget: Budget) -> None:
    """Give *feed* the values of a Parquet file in memory."""
    read_parquet(io.BytesIO(data), feed, budget)


def read_parquet(file: BinaryIO, feed: Callable[[bytes], None], budget: Budget) -> None:
    """Give *feed* all values of a Parquet file, column by column; a note in *budget* says when that fails."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    try:
        names = _leaves(pq.ParquetFile(file))
        # Dictionaries stay dictionaries: a long text that is repeated a million times takes its own length only.
        opened = pq.ParquetFile(
            file,
            read_dictionary=names,
            pre_buffer=False,
            buffer_size=_BUFFER,
            thrift_string_size_limit=_STRINGS,
            thrift_container_size_limit=_PAGES,
        )
        for group in range(opened.num_row_groups):
            for name in names:
                for batch in opened.iter_batches(_ROWS, row_groups=[group], columns=[name]):
                    for buffer in _buffers(batch.column(0)):
                        if not budget.spend(len(buffer)):
                            return
                        feed(buffer)
    except (pa.ArrowException, OSError, ValueError, NotImplementedError, KeyError) as error:
        budget.notes.add(f"Parquet that cannot be read ({type(error).__name__})")


def _leaves(file: Any) -> list[str]:
    schema = file.schema
    return [schema.column(index).path for index in range(len(schema))]


def _buffers(array: Any) -> Iterator[bytes]:
    """What the values of an array are made of, nested and dictionary-encoded ones too."""
    import pyarrow as pa

    if isinstance(array, pa.DictionaryArray):
        yield from _buffers(array.dictionary)
    elif isinstance(array, pa.StructArray):
        for field in array.flatten():
            yield from _buffers(field)
    elif isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray | pa.MapArray):
        yield from _buffers(array.keys if isinstance(array, pa.MapArray) else array.flatten())
        if isinstance(array, pa.MapArray):
            yield from _buffers(array.items)
    else:
        for buffer in array.buffers():
            if buffer is not None and buffer.size:
                yield buffer.to_pybytes()


def spans_of(found: list[int], size: int) -> Iterator[tuple[int, int]]:
    """Where Parquet files may lie in something of *size* bytes, by the places of their signature: first and last."""
    ends = [at + len(PARQUET_MAGIC) for at in found]
    for start in found[:4]:
        for end in reversed(ends[-4:]):
            if start < end - len(PARQUET_MAGIC) and end <= size:
                yield start, end
