"""The shards of a store: what its manifest says of them, and reading their tokens.

    STORE/store.json      the manifest, written last: what has none is not finished
    STORE/tokenizer.json
    STORE/shards/00007.train.bin  00007.validation.bin    ids, little-endian, nothing else

A shard's hashes are of pieces of PIECE_BYTES, so that a part of it can be checked when it is read.
"""

import hashlib
import os
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from hornbook.errors import DataError, display_path, reason
from hornbook.language import msg
from hornbook.storage import objects
from hornbook.storage.disk import UNFINISHED
from hornbook.storage.files import open_regular, read_regular

Tokens = NDArray[np.unsignedinteger]

FORMAT = 1
PIECE_BYTES = 1 << 22
MOST_OPEN = 64
MOST_CACHED_BYTES = 2 * 10**9
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

    def check_all(self, parts: Sequence[Part]) -> None:
        """Raises: DataError naming a shard that is missing, or not as long as it was written."""
        ...

    def read(self, part: Part, start: int, stop: int) -> bytes:
        """Bytes of a part of a shard. Raises: DataError where it is missing or damaged."""
        ...


class RemotePieces:
    """Shards at an address, through a folder of checked pieces, of which the oldest go.

    They take MOST_CACHED_BYTES at most, or HORNBOOK_STORE_CACHE_MB.
    """

    def __init__(self, url: str, width: int, folder: Path) -> None:
        self.url, self.width, self.folder = url, width, folder
        limit = os.environ.get("HORNBOOK_STORE_CACHE_MB", "")
        self.most = 1_000_000 * int(limit) if limit.isdecimal() else MOST_CACHED_BYTES
        self.checked: OrderedDict[Path, int] = OrderedDict()  # the bytes of each, the oldest first

    def check_all(self, parts: Sequence[Part]) -> None:
        """Raises: DataError naming a shard that is missing, or not as long as it was written."""
        if self.url.startswith(("http://", "https://")):
            return  # a web server lists nothing
        found = objects.listed(f"{self.url}/{SHARDS}")
        there = {file.url.rpartition("/")[2]: file.size for file in found}
        for part in parts:
            size = there.get(part.file.rpartition("/")[2])
            check_size(f"{self.url}/{part.file}", size, part, self.width)

    def read(self, part: Part, start: int, stop: int) -> bytes:
        """Bytes of a part of a shard. Raises: DataError where it is damaged or out of reach."""
        found: list[bytes] = []
        for piece in range(start // PIECE_BYTES, -(-stop // PIECE_BYTES)):
            first = piece * PIECE_BYTES
            from_, to = max(start, first) - first, min(stop, first + PIECE_BYTES) - first
            path = self.folder / f"{part.file.replace('/', '-')}-{piece}"
            if path in self.checked:
                self.checked.move_to_end(path)
                with suppress(OSError), path.open("rb") as file:  # another process may remove it
                    file.seek(from_)
                    data = file.read(to - from_)
                    if len(data) == to - from_:
                        found.append(data)
                        continue
            found.append(self._fetched(part, piece, path)[from_:to])
        return b"".join(found)

    def _fetched(self, part: Part, piece: int, path: Path) -> bytes:
        """A whole piece, from the folder or its address, checked."""
        first, where = piece * PIECE_BYTES, f"{self.url}/{part.file}"
        with suppress(OSError, DataError):  # damage of the copy is no damage of the store
            data = read_regular(path, PIECE_BYTES)
            check_piece(part, piece, data, where)
            self._keep(path, len(data))
            return data
        data = objects.read(where, first, min(first + PIECE_BYTES, part.tokens * self.width))
        check_piece(part, piece, data, display_path(where))
        with suppress(OSError):  # without room it is fetched again
            self.folder.mkdir(parents=True, exist_ok=True)
            own = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
            own.write_bytes(data)
            own.replace(path)
            self._keep(path, len(data))
        return data

    def _keep(self, path: Path, size: int) -> None:
        self.checked[path] = size
        while sum(self.checked.values()) > self.most and len(self.checked) > 1:
            oldest, _ = self.checked.popitem(last=False)
            oldest.unlink(missing_ok=True)


class FolderPieces:
    """Shards in a folder. A piece is checked when it is first read."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self.checked: set[tuple[str, int]] = set()
        self.files: OrderedDict[str, BinaryIO] = OrderedDict()
        weakref.finalize(self, close_all, self.files)

    def check_all(self, parts: Sequence[Part]) -> None:
        """Raises: DataError naming a shard that is missing, or not as long as it was written."""
        for part in parts:
            path, size = self.folder / part.file, None
            with suppress(OSError):
                size = path.stat().st_size
            check_size(display_path(path), size, part, self.width)

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
            raise DataError(
                msg(
                    "{path}: cannot read a shard: {why}", path=display_path(path), why=reason(error)
                )
            ) from None
        if len(data) < stop - start:
            raise DataError(
                msg("{path}: a shard was cut off while it was read", path=display_path(path))
            )
        return data

    def _opened(self, name: str) -> BinaryIO:
        """An open file; of those in use for longest one is closed."""
        if name not in self.files:
            if len(self.files) >= MOST_OPEN:
                self.files.popitem(last=False)[1].close()
            self.files[name] = open_regular(self.folder / name)
        self.files.move_to_end(name)
        return self.files[name]


def check_size(where: str, size: int | None, part: Part, width: int) -> None:
    """Raises: DataError where a shard has not the size that it was written with."""
    if size is None:
        raise DataError(
            msg(
                "{where}: a shard is missing: bring it back, or prepare the store again",
                where=where,
            )
        )
    if size != part.tokens * width:
        raise DataError(
            msg(
                "{where}: a shard is damaged: {size:,} bytes, expected {expected:,}; bring it "
                "back, or prepare the store again",
                where=where,
                size=size,
                expected=part.tokens * width,
            )
        )


def read_all(part: Part, pieces: Pieces, width: int) -> None:
    """Read all of a part of a shard. Raises: DataError where it is missing or damaged."""
    pieces.check_all([part])
    size = part.tokens * width
    for start in range(0, size, PIECE_BYTES):
        pieces.read(part, start, min(size, start + PIECE_BYTES))


def close_all(files: Mapping[str, BinaryIO]) -> None:
    """Close the files of a store that nobody uses any more."""
    for file in files.values():
        file.close()


def check_piece(part: Part, piece: int, data: bytes, where: str) -> None:
    """Raises: DataError where the bytes of a piece are not those that were written."""
    if piece >= len(part.sha256) or hashlib.sha256(data).hexdigest() != part.sha256[piece]:
        raise DataError(
            msg(
                "{where}: a shard is damaged: its bytes from {start:,} on are not those that "
                "were written; prepare the store again, or copy the shard again",
                where=where,
                start=piece * PIECE_BYTES,
            )
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
