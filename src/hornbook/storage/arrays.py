"""The safetensors format, read as numpy arrays that are views of the file. It needs no torch."""

import math
import mmap
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hornbook.language import msg
from hornbook.storage.files import JSON_BYTES, parse_json

# The bytes of a file: in memory, or memory-mapped.
Data: TypeAlias = bytes | mmap.mmap
# Of the tables of n-grams and of a mixer, as numpy names them.
TABLE_TYPES = ("<i8", "<f4", "|u1")
# The bytes of a number of each type.
BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4,
    "BF16": 2, "F16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


class Stored(NamedTuple):
    """A tensor in a file: its type, shape, and where its bytes begin."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int


def stored(data: Data) -> Iterator[Stored]:
    """What a safetensors file holds. Raises: ValueError, KeyError or TypeError for anything else.

    Source: the format in safetensors' README.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    if start > min(len(data), JSON_BYTES):
        raise ValueError(msg("the header is longer than the file"))
    header = parse_json(data[8:start])
    header.pop("__metadata__", None)
    for name, facts in header.items():
        dtype, shape, (begin, end) = facts["dtype"], facts["shape"], facts["data_offsets"]
        if not all(type(size) is int and size >= 0 for size in [begin, end, *shape]):
            raise ValueError(msg("{name}: a size that is no whole number", name=name))
        if not begin <= end <= len(data) - start:
            raise ValueError(msg("{name} is outside the file", name=name))
        if end - begin != math.prod(shape) * BYTES[dtype]:
            raise ValueError(msg("{name} has another size than its shape", name=name))
        yield Stored(name, dtype, tuple(shape), start + begin)


def arrays_in(data: Data) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file as views of `data`; the library would copy them.

    Raises: ValueError, KeyError or TypeError for anything else.
    """
    kinds = {"F": "f", "I": "i", "U": "u", "B": "?"}
    found = {}
    for name, kind, shape, start in stored(data):
        if kind == "BF16":
            raise ValueError(msg("{name} is in bfloat16, which numpy does not have", name=name))
        dtype = np.dtype("?" if kind == "BOOL" else f"<{kinds[kind[0]]}{BYTES[kind]}")
        found[name] = np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
    return found


def tables_in(data: Data) -> dict[str, NDArray[Any]]:
    """The arrays of a file that must be tables: of one dimension, and of one of their types.

    Raises: as `arrays_in`.
    """
    found = arrays_in(data)
    for name, table in found.items():
        if table.ndim != 1 or table.dtype.str not in TABLE_TYPES:
            raise ValueError(
                msg(
                    "{name} is no table: {dtype} of shape {shape}",
                    name=name,
                    dtype=table.dtype,
                    shape=table.shape,
                )
            )
    return found
