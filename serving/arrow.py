"""Reading Arrow streams: of one column or a few, without compression, checked before a value is looked at."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.limits import Refused

MOST_COLUMNS = 1000
# Slots of the table RecordBatch in Arrow's Message.fbs, and of Message.
HEADER_SLOT, COMPRESSION_SLOT = 2, 3


def read_column(body: bytes, name: str, size: int, most: int) -> list[bytes] | npt.NDArray[np.uint8]:
    """The values of a binary column, or of one of `size` bytes a row as uint8 rows x size.

    Raises Refused: 422 where the body is no such stream, 413 where it has more than `most` rows.
    """
    table = _table(body, [name], most)
    column = table.column(name)
    if column.null_count:
        raise Refused(422, f"column {name!r}: {column.null_count} values are missing; expected none")
    found = column.type
    if pa.types.is_binary(found) or pa.types.is_large_binary(found):
        return [value.as_py() for value in column]
    if found in (pa.binary(size), pa.list_(pa.uint8(), size)):
        return np.concatenate([_fixed_size(chunk, size) for chunk in column.chunks] or [np.empty((0, size), np.uint8)])
    expected = f"binary, fixed_size_binary[{size}] or fixed_size_list<uint8>[{size}]"
    raise Refused(422, f"column {name!r} has type {str(found)[:100]}; expected {expected}")


def read_rows(body: bytes, columns: list[str] | None, most: int) -> dict[str, list[Any]]:
    """Columns of numbers, texts, dates and times as lists; `columns` None reads all. Raises Refused as above."""
    table = _table(body, columns, most)
    for field in table.schema:
        if not _is_plain(field.type):
            problem = f"column {field.name[:100]!r} has type {str(field.type)[:100]}"
            raise Refused(422, f"{problem}; expected numbers, texts, dates or times")
    return {name: _plain_list(table.column(name)) for name in table.column_names}


def _table(body: bytes, columns: list[str] | None, most: int) -> pa.Table:
    try:
        _check_messages(body)
        reader = pa.ipc.open_stream(body)
        names = reader.schema.names
        if len(names) > MOST_COLUMNS or len(set(names)) != len(names):
            raise Refused(422, f"at most {MOST_COLUMNS} columns of different names were expected, got {len(names)}")
        missing = [name for name in columns or [] if name not in names]
        if missing:
            raise Refused(422, f"the stream has no column {missing[0]!r}")
        wanted = [names.index(name) for name in columns] if columns else None
        options = pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)
        return pa.Table.from_batches(_batches(body, options, most), schema=_schema(body, options))
    except pa.ArrowException as error:
        raise _no_stream(error) from None
    except (struct.error, OSError, ValueError, MemoryError, OverflowError) as error:
        raise _no_stream(error) from None


def _batches(body: bytes, options: pa.ipc.IpcReadOptions, most: int) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in pa.ipc.open_stream(body, options=options):
        rows += batch.num_rows
        if rows > most:
            raise Refused(413, f"{rows:,} rows were sent; at most {most:,} are taken at once")
        batch.validate(full=True)  # reading believes what offsets and lengths say
        yield batch


def _schema(body: bytes, options: pa.ipc.IpcReadOptions) -> pa.Schema:
    return pa.ipc.open_stream(body, options=options).schema


def _check_messages(body: bytes) -> None:
    """Refuse what would take more memory than it has bytes: compressed buffers, and dictionaries."""
    reader = pa.ipc.MessageReader.open_stream(body)
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        if message.type not in ("schema", "record batch"):
            raise Refused(422, f"a message of type {message.type!r}; expected record batches without dictionaries")
        if message.type == "record batch" and _is_compressed(message.metadata.to_pybytes()):
            raise Refused(422, "compressed record batches are not taken: write the stream without compression")


def _is_compressed(metadata: bytes) -> bool:
    """Whether the RecordBatch in a flatbuffer Message (which Arrow has verified) has its field `compression` set."""
    (message,) = struct.unpack_from("<I", metadata, 0)
    header = message + _slot(metadata, message, HEADER_SLOT)
    (to_batch,) = struct.unpack_from("<I", metadata, header)
    return _slot(metadata, header + to_batch, COMPRESSION_SLOT) != 0


def _slot(metadata: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer table lies, counted from the table; 0 where it is not set."""
    (to_vtable,) = struct.unpack_from("<i", metadata, table)
    vtable = table - to_vtable
    (size,) = struct.unpack_from("<H", metadata, vtable)
    place = 4 + 2 * number
    if place >= size:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, vtable + place)
    return int(offset)


def _fixed_size(chunk: pa.Array, size: int) -> npt.NDArray[np.uint8]:
    if pa.types.is_fixed_size_binary(chunk.type):
        pixels = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * size, chunk.offset * size)
    else:
        values = chunk.flatten()
        if values.null_count:
            raise Refused(422, f"{values.null_count} pixels are missing; expected none")
        pixels = np.frombuffer(values.buffers()[1], np.uint8, len(values), values.offset)
    return pixels.reshape(len(chunk), size)


def _is_plain(found: pa.DataType) -> bool:
    types = pa.types
    texts = types.is_string(found) or types.is_large_string(found)
    times = types.is_timestamp(found) or types.is_date(found)
    return bool(texts or times or types.is_integer(found) or types.is_floating(found))


def _plain_list(column: pa.ChunkedArray) -> list[Any]:
    """Times in ISO 8601, for they are read as a file's are; numbers and texts as they are."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return [None if value is None else value.isoformat() for value in column.to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


def _no_stream(error: Exception) -> Refused:
    return Refused(422, f"the body is no Arrow stream ({type(error).__name__}); expected the IPC streaming format")
