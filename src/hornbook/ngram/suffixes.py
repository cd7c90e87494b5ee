"""Which stretches of a text stand word for word in another: a suffix array of the training text.

The array holds the position of every suffix of the text, the suffixes in alphabetical order, so
that all places where a string stands lie side by side and are found by halving: 27 comparisons
for 100 million characters. It is memory-mapped, and a query reads some thousand of its pages.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_left, bisect_right
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hornbook.errors import CheckpointError, ConfigError, reason
from hornbook.storage.disk import DISCARDED, DISK, UNFINISHED, Disk, refused
from hornbook.storage.files import open_regular, read_json
from hornbook.storage.lock import Lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

FORMAT = 1
ARRAY = "suffixes.bin"
MANIFEST = "manifest.json"

# Matches are looked for this far first, and as far again while they go on: all but verbatim
# copies end sooner, and comparing costs a copy of what is compared.
FIRST_REACH = 32


@dataclass(frozen=True)
class Match:
    """A stretch of a text that stands in the training text too; offsets are in characters."""

    start: int
    length: int
    position: int  # of its first occurrence in the training text
    occurrences: int

    @property
    def end(self) -> int:
        """One past its last character."""
        return self.start + self.length


class CopyIndex:
    """A training text that can be asked where any stretch of another text stands in it."""

    def __init__(self, text: str, suffixes: NDArray[np.signedinteger]) -> None:
        self.text = text
        self._suffixes = suffixes
        # A memoryview gives Python's own integers, and in a third of the time of an array.
        self._sorted = suffixes.data

    @classmethod
    def build(cls, text: str) -> CopyIndex:
        """Sort the suffixes of `text`: 0.1 s and 5 MB a million ASCII characters."""
        from pydivsufsort import divsufsort

        whole = offsets_for(text)
        # The order of UTF-8's bytes is that of the characters; a surrogate's lone half keeps it.
        data = text.encode("utf-8", "surrogatepass")
        if not data:
            return cls(text, np.empty(0, whole))
        by_byte = divsufsort(data)
        if len(data) == len(text):
            return cls(text, by_byte.view(whole))
        # Of the suffixes in bytes those stay that begin with a character, renumbered by character.
        begins = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
        number = np.cumsum(begins, dtype=whole)
        number -= 1
        return cls(text, number[by_byte[begins[by_byte]]])

    def save(self, folder: str | os.PathLike[str], disk: Disk = DISK) -> None:
        """Write the index as a folder, whole or not at all; one that was there is replaced.

        Raises: CheckpointError when the disk refuses.
        """
        folder = Path(folder)
        # Of two at a time each writes a folder of its own, whose lock says that it is at work.
        written = folder.with_name(f"{UNFINISHED}{folder.name}-{os.getpid()}")
        lock = Lock(written)
        try:
            disk.make_folder(folder.parent)
            sweep(folder, disk)
            disk.make_one_folder(written)
            lock.acquire()
            disk.write(written / ARRAY, self._sorted.cast("B"))
            manifest = {
                "format": FORMAT,
                "text_sha256": text_hash(self.text),
                "suffixes_sha256": file_hash(written / ARRAY),
            }
            disk.write(written / MANIFEST, json.dumps(manifest, indent=1).encode())
            for name in (ARRAY, MANIFEST):
                disk.sync(written / name)
            if folder.exists():
                disk.discard(folder)
            lock.release()
            lock.path.unlink()
            disk.rename(written, folder)
            disk.sync_folder(folder.parent)
        except OSError as error:
            with suppress(OSError):
                disk.remove(written)
            raise refused(folder, self._sorted.nbytes, error) from None

    @classmethod
    def open(cls, folder: str | os.PathLike[str], text: str) -> CopyIndex:
        """The index saved for `text`, memory-mapped, once its hashes are seen to be right.

        Raises: CheckpointError when it is missing, damaged, or another text's.
        """
        folder = Path(folder)
        check(folder, text)
        try:
            suffixes = np.memmap(folder / ARRAY, offsets_for(text), "r", shape=(len(text),))
        except OSError as error:
            raise CheckpointError(f"{folder}: no copy index: {reason(error)}") from None
        except ValueError:
            raise CheckpointError(f"{folder}: not a copy index") from None
        return cls(text, suffixes)

    def match_lengths(self, text: str, at_least: int = 1) -> NDArray[np.int64]:
        """For each character, the length of the longest verbatim match that covers it.

        Matches shorter than `at_least` count as 0; the higher it is the faster.
        Shapes: a text of T characters -> [T], in characters.
        Raises: ConfigError for an `at_least` below 1.
        """
        lengths = np.zeros(len(text), np.int64)
        for start, length in self._maximal(text, at_least):
            covered = lengths[start : start + length]
            np.maximum(covered, length, out=covered)
        return lengths

    def matches(self, text: str, at_least: int = 20) -> list[Match]:
        """Where the text is verbatim: stretches that do not overlap, in order, the longest whole.

        Where two overlap the longer keeps what they share, and the rest of the other is a match if
        it is still `at_least` characters long.
        Raises: ConfigError for an `at_least` below 1.
        """
        free = np.ones(len(text), np.bool_)
        kept: list[Match] = []
        found = sorted(self._maximal(text, at_least), key=lambda match: (-match[1], match[0]))
        for start, length in found:
            # No maximal match lies within another, so what others leave of one is in one piece.
            rest = np.flatnonzero(free[start : start + length])
            if len(rest) >= at_least:
                first, last = start + int(rest[0]), start + int(rest[-1]) + 1
                free[first:last] = False
                kept.append(self._match(text, first, last))
        return sorted(kept, key=lambda match: match.start)

    def _match(self, text: str, start: int, end: int) -> Match:
        """All places of a stretch that is known to stand in the training text."""
        piece = text[start:end]
        low = self._row(piece)
        high = bisect_right(self._sorted, piece, low, key=self._cut(len(piece)))
        position = int(self._suffixes[low:high].min())
        return Match(start, end - start, position, high - low)

    def _maximal(self, text: str, at_least: int) -> Iterator[tuple[int, int]]:
        """Start and length of every match that cannot be made longer, to the left or the right.

        No such match lies within another, so both their starts and their ends ascend.
        """
        if at_least < 1:
            raise ConfigError(f"at_least = {at_least}: expected 1 or more characters")
        start = 0
        while start + at_least <= len(text):
            length = self._longest(text, start)
            if length >= at_least:
                yield start, length
            # One that begins later goes on past this one's end, and is long enough: it takes in
            # the character at `end`. The further right it begins the sooner the text has it;
            # strides that double step over long copies.
            end = start + max(length, at_least - 1) + 1
            if end > len(text):
                return
            stride = 1
            while not self._occurs(text[start + stride : end]):
                stride *= 2
            nearer = range(start + stride // 2 + 1, start + stride)
            start = nearer.start + bisect_left(
                nearer, True, key=lambda begin, end=end: self._occurs(text[begin:end])
            )

    def _longest(self, text: str, start: int) -> int:
        """How many characters from `start` stand together in the training text."""
        reach = FIRST_REACH
        while True:
            piece = text[start : start + reach]
            row = self._row(piece)
            # The suffix most like the piece is the one before its place or the one after.
            around = self._sorted[max(row - 1, 0) : row + 1]
            ends = (common_prefix(piece, self.text[place : place + reach]) for place in around)
            length = max(ends, default=0)
            if length < reach:
                return length
            reach *= 2

    def _occurs(self, piece: str) -> bool:
        """Whether the training text has it; it has the empty string."""
        row = self._row(piece)
        return not piece or (
            row < len(self._sorted) and self.text.startswith(piece, self._sorted[row])
        )

    def _row(self, piece: str) -> int:
        """Where in the array the suffixes begin that are not before `piece`."""
        return bisect_left(self._sorted, piece, key=self._cut(len(piece)))

    def _cut(self, length: int) -> Callable[[int], str]:
        """What stands at a position, cut to a length: ascending along the array."""
        text = self.text

        def cut(position: int) -> str:
            return text[position : position + length]

        return cut


def sweep(folder: Path, disk: Disk = DISK) -> None:
    """Remove what writers of an index that were killed have left beside it.

    Raises: OSError, as the system gives it.
    """
    for path in folder.parent.glob(f"{UNFINISHED}{folder.name}-*"):
        lock = Lock(path)
        with suppress(CheckpointError):  # its writer is at work, or it is not ours to remove
            lock.acquire()
            lock.release()
            disk.remove(path)
    disk.remove(folder.with_name(f"{DISCARDED}{folder.name}"))


def common_prefix(one: str, other: str) -> int:
    """How many characters two strings begin with together."""
    if one == other:
        return len(one)
    shorter = range(1, min(len(one), len(other)) + 1)
    return bisect_left(shorter, True, key=lambda length: one[:length] != other[:length])


def offsets_for(text: str) -> type[np.int32 | np.int64]:
    """The numbers that offsets in a text take."""
    return np.int32 if len(text) < 2**31 else np.int64


def check(folder: Path, text: str | None = None) -> None:
    """See that a folder is an index as it was written, and, where a text is given, of that text.

    Raises: CheckpointError saying what is wrong.
    """
    try:
        manifest = read_json(folder / MANIFEST)
        suffixes_sha256 = file_hash(folder / ARRAY)
    except OSError as error:
        raise CheckpointError(f"{folder}: no copy index: {reason(error)}") from None
    except ValueError:
        raise CheckpointError(f"{folder}: not a copy index") from None
    fault = ""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        fault = f"not a copy index of format {FORMAT}"
    elif text is not None and manifest.get("text_sha256") != text_hash(text):
        fault = "the copy index of another text"
    elif manifest.get("suffixes_sha256") != suffixes_sha256:
        fault = f"{ARRAY} is not what was written"
    if fault:
        raise CheckpointError(f"{folder}: {fault}")


def text_hash(text: str) -> str:
    """The SHA-256 of a text, as UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_hash(path: Path) -> str:
    """The SHA-256 of a regular file. Raises: OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
