"""Which parts of a text occur verbatim in a far longer one, by hashes of windows of one width.

The longer text is read once, in chunks: neither it nor an index of it has to fit into memory.
"""

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hornbook.text.forms import code_points, reformed, unified

Hashes = NDArray[np.uint64]

# So many characters at a time: 2 MB an array, the fastest of 2^15 to 2^20.
PIECE = 1 << 18
# A table of the first bits of the wanted hashes excludes most windows with one lookup each: with
# half a million wanted ones, 97%.
TABLE_BITS = 24


def copied_characters(text: str, source: Iterable[str], width: int) -> NDArray[np.bool_]:
    """For each character, whether it is in a run of `width` or more that `source` has verbatim.

    Line ends and Unicode forms are set aside. Windows are compared by hashes of 64 bits: in half a
    million against a hundred million, one is taken for a copy by mistake in 370,000 texts.
    Shapes: a text of T characters -> [T].
    """
    whole, offsets = unified(text)
    wanted, place = np.unique(window_hashes(whole, width), return_inverse=True)
    found = np.zeros(len(wanted), np.bool_)
    table = np.zeros(1 << TABLE_BITS, np.bool_)
    table[first_bits(wanted)] = True
    for piece in overlapping(reformed(source, newlines="lf", normalize="nfc"), width - 1):
        hashes = window_hashes(piece, width)
        hashes = hashes[table[first_bits(hashes)]]
        at = np.minimum(wanted.searchsorted(hashes), max(0, len(wanted) - 1))
        found[at[wanted[at] == hashes]] = True
    starts = np.flatnonzero(found[place])
    ends = starts + width
    if offsets is not None:
        starts, ends = offsets[starts], offsets[ends]
    edges = np.zeros(len(text) + 1, np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, ends, -1)
    return np.cumsum(edges[:-1]) > 0


def first_bits(hashes: Hashes) -> NDArray[np.int64]:
    """The index of each hash in a table; a product's highest bits depend on all of its factors."""
    return (hashes >> np.uint64(64 - TABLE_BITS)).astype(np.int64)


def overlapping(chunks: Iterable[str], overlap: int) -> Iterator[str]:
    """A text in pieces; each begins with the last `overlap` characters of the one before."""
    held = ""
    for chunk in chunks:
        held += chunk
        while len(held) >= PIECE:
            yield held[:PIECE]
            held = held[PIECE - overlap :]
    yield held


def window_hashes(text: str, width: int) -> Hashes:
    """A hash of every `width` consecutive characters.

    Shapes: a text of T characters -> [T - width + 1], or none for a shorter text.
    Source: Karp and Rabin 1987, modulo 2^64; sums from the beginning give all windows at once.
    """
    if len(text) < width:
        return np.empty(0, np.uint64)
    powers, inverses = powers_of_base(max(PIECE, len(text)))
    terms = scattered(code_points(text)) * powers[: len(text)]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    windows = (sums[width:] - sums[:-width]) * inverses[: len(text) - width + 1]
    return scattered(windows)


BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse


@cache
def powers_of_base(number: int) -> tuple[Hashes, Hashes]:
    """The powers of BASE and of its inverse, from 0 on, modulo 2^64."""
    ascending, descending = np.full((2, number), 1, np.uint64)
    ascending[1:], descending[1:] = BASE, pow(BASE, -1, 1 << 64)
    return np.cumprod(ascending), np.cumprod(descending)


def scattered(numbers: NDArray[np.unsignedinteger]) -> Hashes:
    """Numbers as others whose bits depend on all of theirs, one to one.

    Source: the finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    """
    mixed = numbers.astype(np.uint64) + np.uint64(BASE)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
