"""The shards of a store: what its manifest says of them, and reading their tokens.

    STORE/store.json      the manifest, written last: what has none is not finished
    STORE/tokenizer.json
    STORE/shards/00007.train.bin  00007.validation.bin    ids, little-endian, nothing else

A shard's hashes are of pieces of PIECE_BYTES, so that a part of it can be checked when it is read.
"""

import hashlib
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from hornbook.errors import DataError, display_path, reason
from hornbook.storage.files import open_regular

Tokens = NDArray[np.unsignedinteger]

FORMAT = 1
PIECE_BYTES = 1 << 22
MOST_OPEN = 64
SHARDS = "shards"


class Part(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The training or the validation part of a shard; `sha256` has that of each piece."""

    file: str
    tokens: int
    characters: int
    documents: int
    sha256: list[str]


class Shard(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A shard, and the group of texts that it is of."""

    group: str
    train: Part
    validation: Part


class Pieces(Protocol):
    """Where the bytes of shards come from, each checked before it is used."""

    def read(self, part: Part, start: int, stop: int) -> bytes:
        """Bytes of a part of a shard. Raises: DataError where it is missing or damaged."""
        ...


class FolderPieces:
    """Shards in a folder. A piece is checked when it is first read."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self.checked: set[tuple[str, int]] = set()
        self.files: OrderedDict[str, BinaryIO] = OrderedDict()
        weakref.finalize(self, close_all, self.files)

    def check_size(self, part: Part) -> None:
        """Raises: DataError naming a shard that is missing, or not as long as it was written."""
        path = self.folder / part.file
        try:
            size = path.stat().st_size
        except OSError as error:
            why = f"{display_path(path)}: a shard is missing: {reason(error)}"
            raise DataError(why) from None
        if size != part.tokens * self.width:
            raise DataError(
                f"{display_path(path)}: a shard is damaged: {size:,} bytes, expected "
                f"{part.tokens * self.width:,}; prepare the store again"
            )

    def check(self, part: Part) -> None:
        """Read all of a part of a shard. Raises: DataError where it is missing or damaged."""
        self.check_size(part)
        size = part.tokens * self.width
        for start in range(0, size, PIECE_BYTES):
            self.read(part, start, min(size, start + PIECE_BYTES))

    def read(self, part: Part, start: int, stop: int) -> bytes:
        """Bytes of a part of a shard. Raises: DataError where it is missing or damaged."""
        path = self.folder / part.file
        try:
            file = self._opened(part.file)
            for piece in range(start // PIECE_BYTES, -(-stop // PIECE_BYTES)):
                if (part.file, piece) not in self.checked:
                    file.seek(piece * PIECE_BYTES)
                    check_piece(part, piece, file.read(PIECE_BYTES), display_path(path))
                    self.checked.add((part.file, piece))
            file.seek(start)
            data = file.read(stop - start)
        except OSError as error:
            raise DataError(f"{display_path(path)}: cannot read a shard: {reason(error)}") from None
        if len(data) < stop - start:
            raise DataError(f"{display_path(path)}: a shard was cut off while it was read")
        return data

    def _opened(self, name: str) -> BinaryIO:
        """An open file; of those in use for longest one is closed."""
        if name not in self.files:
            if len(self.files) >= MOST_OPEN:
                self.files.popitem(last=False)[1].close()
            self.files[name] = open_regular(self.folder / name)
        self.files.move_to_end(name)
        return self.files[name]


def close_all(files: Mapping[str, BinaryIO]) -> None:
    """Close the files of a store that nobody uses any more."""
    for file in files.values():
        file.close()


def check_piece(part: Part, piece: int, data: bytes, where: str) -> None:
    """Raises: DataError where the bytes of a piece are not those that were written."""
    if piece >= len(part.sha256) or hashlib.sha256(data).hexdigest() != part.sha256[piece]:
        raise DataError(
            f"{where}: a shard is damaged: its bytes from {piece * PIECE_BYTES:,} on are not those "
            "that were written; prepare the store again, or copy the shard again"
        )


class Stream:
    """Tokens of parts of shards as one sequence, read from where they are."""

    def __init__(self, parts: Sequence[Part], pieces: Pieces, dtype: np.dtype) -> None:
        self.parts = [part for part in parts if part.tokens]
        self.pieces, self.dtype = pieces, dtype
        self.ends = [*accumulate(part.tokens for part in self.parts)]

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def read(self, start: int, stop: int) -> Tokens:
        """The tokens from `start` up to `stop`. Shapes: [stop - start]. Raises: DataError."""
        found: list[bytes] = []
        number = bisect_right(self.ends, start)
        while start < stop:
            part, end = self.parts[number], self.ends[number]
            first, width = end - part.tokens, self.dtype.itemsize
            upto = min(stop, end)
            found.append(self.pieces.read(part, (start - first) * width, (upto - first) * width))
            start, number = upto, number + 1
        return np.frombuffer(b"".join(found), self.dtype)
