"""Reads a GGUF file's directory with every count bounded; weights are dequantised one at a time.

The reader of the package `gguf` trusts the counts in a file: an array that claims 2^60 entries
keeps it busy for years. The package is used for the arithmetic of the quantised types.
Source of the format: ggml's docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hornbook.errors import display_path, reason
from hornbook.language import msg
from hornbook.pretrained.source import SourceError
from hornbook.storage.files import map_regular, unmap_pages

if TYPE_CHECKING:
    import mmap
    from pathlib import Path

    from numpy.typing import NDArray

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
STRING, ARRAY = 8, 9
# The codes of numbers, as struct has them.
NUMBERS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"
}  # fmt: skip
MOST_ENTRIES, MOST_TENSORS, MOST_ARRAY, MOST_STRING = 10_000, 100_000, 1 << 22, 1 << 24


@dataclass(frozen=True)
class Stored:
    """A tensor in the file: its shape as numpy has it, its type, and where its bytes are."""

    shape: tuple[int, ...]
    kind: int
    offset: int
    size: int


class GGUFFile:
    """An opened file: `fields` by name, and `tensors`. Raises: SourceError for a damaged one."""

    def __init__(self, path: Path) -> None:
        self.where = display_path(path)
        try:
            self._data: mmap.mmap = map_regular(path)
        except (OSError, ValueError) as error:
            raise SourceError(
                msg("{where}: cannot be read: {why}", where=self.where, why=reason(error))
            ) from None
        self._at = 0
        if self._data[:4] != MAGIC:
            raise self._damaged(msg("it does not begin with GGUF"))
        self._at = 4
        version = self._number("I")
        if version not in VERSIONS:
            raise SourceError(
                msg(
                    "{where}: GGUF version {version}; supported are 2 and 3",
                    where=self.where,
                    version=version,
                )
            )
        tensors = self._count(MOST_TENSORS, "tensors")
        entries = self._count(MOST_ENTRIES, "fields")
        self.fields: dict[str, Any] = {}
        for _ in range(entries):
            name = self._string()
            self.fields[name] = self._value(self._number("I"))
        found = [self._tensor() for _ in range(tensors)]
        alignment = self.fields.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 16:
            raise self._damaged(msg("an alignment that is no small number"))
        start = -(-self._at // alignment) * alignment
        self.tensors: dict[str, Stored] = {}
        for name, shape, kind, offset in found:
            size = byte_size(self.where, name, shape, kind)
            if offset % alignment or start + offset + size > len(self._data):
                raise self._damaged(msg("the tensor {name!r} is outside the file", name=name[:60]))
            if name in self.tensors:
                raise self._damaged(msg("two tensors of the name {name!r}", name=name[:60]))
            self.tensors[name] = Stored(shape, kind, start + offset, size)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A weight in float32. Raises: SourceError for a type that the package cannot unpack."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        stored = self.tensors[name]
        kind = GGMLQuantizationType(stored.kind)
        data = np.frombuffer(self._data, np.uint8, stored.size, stored.offset)
        rows = data.reshape(*stored.shape[:-1], -1)
        try:
            if kind == GGMLQuantizationType.F32:
                return rows.view(np.float32).copy()
            if kind == GGMLQuantizationType.F16:
                return rows.view(np.float16).astype(np.float32)
            return np.asarray(dequantize(rows, kind), np.float32).reshape(stored.shape)
        except (NotImplementedError, ValueError) as error:
            raise SourceError(
                msg(
                    "{where}: {name!r} is of the type {kind}: {why}",
                    where=self.where,
                    name=name,
                    kind=kind.name,
                    why=reason(error, 100),
                )
            ) from None

    def let_go(self) -> None:
        """Give the memory of the file's pages back; they are read again if they are needed."""
        unmap_pages(self._data)

    def _damaged(self, why: str) -> SourceError:
        return SourceError(msg("{where}: not a sound GGUF file: {why}", where=self.where, why=why))

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise self._damaged(msg("it ends too early"))
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")))
        return value

    def _count(self, most: int, what: str) -> int:
        count: int = self._number("Q")
        if count > most:
            raise self._damaged(
                msg(
                    "{count:,} {what}, expected at most {most:,}", count=count, what=what, most=most
                )
            )
        return count

    def _string(self) -> str:
        data = self._take(self._count(MOST_STRING, msg("bytes of text")))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._damaged(msg("a text that is not UTF-8")) from None

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind in NUMBERS:
            return self._number(NUMBERS[kind])
        if kind != ARRAY:
            raise self._damaged(msg("a field of the type {kind}", kind=kind))
        inner, count = self._number("I"), self._count(MOST_ARRAY, "entries")
        if inner == STRING:
            return [self._string() for _ in range(count)]
        if inner not in NUMBERS:
            raise self._damaged(msg("an array of the type {inner}", inner=inner))
        code = NUMBERS[inner]
        return list(struct.unpack(f"<{count}{code}", self._take(count * struct.calcsize(code))))

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self._string(), self._number("I")
        if not 1 <= dimensions <= 4:
            raise self._damaged(msg("a tensor of {dimensions} dimensions", dimensions=dimensions))
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        return name, shape, self._number("I"), self._number("Q")


def byte_size(where: str, name: str, shape: tuple[int, ...], kind: int) -> int:
    """The bytes of a tensor. Raises: SourceError for an unknown type or rows that do not fit it."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (KeyError, ValueError):
        raise SourceError(
            msg(
                "{where}: {name!r} is of an unknown type, {kind}",
                where=where,
                name=name[:60],
                kind=kind,
            )
        ) from None
    if not all(shape) or shape[-1] % block:
        raise SourceError(
            msg(
                "{where}: {name!r} has rows of {length:,}, not of {block}s",
                where=where,
                name=name[:60],
                length=shape[-1],
                block=block,
            )
        )
    return prod(shape) // block * size
