"""The loss of general compressors on the validation text, after the training text.

A compressor that has read the training text has a model of it, as a network does: the bytes that it
then needs for the validation text are its loss. To save time, only the end of a large training part
and the beginning of a large validation part are compressed.
"""

import bz2
import lzma
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import brotli
import pyppmd
import zstandard

from hornbook.language import msg

TRAINING_BYTES = 1_500_000
VALIDATION_BYTES = 250_000

# bzip2 compresses blocks of 900,000 bytes independently, so both texts must fit into one. Its
# run-length encoding may lengthen the text first, so a margin is left.
BZIP2_BLOCK = 890_000

# PPMd and brotli take 134 MB each, and where brotli gets none its library ends the process without
# a word. So no more than two run together.
AT_ONCE = 2

# PPMd's memory is the same for every text: 7-Zip's follows the size of the file, and when it is
# full the model begins again. Half of it gives the same sizes for texts as long as those above,
# random bytes too. Of these two orders the better is within 0.03 nats of the best on Python's
# documentation, Shakespeare and Korean novels.
PPMD_MEMORY, PPMD_ORDERS = 1 << 27, (6, 16)


@dataclass(frozen=True)
class Compressed:
    """The bits that a compressor needs for the validation text after the training text."""

    name: str
    settings: str
    bits: int
    characters: int

    @property
    def bits_per_char(self) -> float:
        """The loss in bits per character."""
        return self.bits / self.characters


def compress_all(train: str, validation: str, *, brief: bool = False) -> list[Compressed]:
    """PPMd, xz, bz2, zstd and brotli on the validation text, each given the training text.

    Two run at once. The list is empty for no text. A `brief` one has the QUICK ones only.
    """
    before = train[-TRAINING_BYTES:].encode()[-TRAINING_BYTES:]
    # Cut between characters, so that none is cut off.
    text = validation[:VALIDATION_BYTES]
    while len(text.encode()) > VALIDATION_BYTES:
        text = text[: min(len(text) - 1, len(text) * VALIDATION_BYTES // len(text.encode()))]
    after = text.encode()
    if not after:
        return []

    def run(name: str, settings: str, measure: Callable[[bytes, bytes], int]) -> Compressed:
        return Compressed(name, settings, 8 * max(1, measure(before, after)), len(text))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        chosen = [each for each in COMPRESSORS if not brief or each[0] in QUICK]
        return list(threads.map(run, *zip(*chosen, strict=True)))


def with_xz(before: bytes, after: bytes) -> int:
    """Level 6, whose dictionary of 8 MB holds both texts; level 9 saves no byte."""
    return len(lzma.compress(before + after)) - len(lzma.compress(before))


def with_ppmd(before: bytes, after: bytes) -> int:
    """The better of the orders, each as the difference of two sizes."""
    return min(ppmd_size(before, after, order) for order in PPMD_ORDERS)


def ppmd_size(before: bytes, after: bytes, order: int, memory: int = PPMD_MEMORY) -> int:
    """What PPMd's output grows by from `before` to `before` and `after`, in bytes.

    In one pass: what the range coder holds back in between is a byte or two.
    """
    stream = pyppmd.Ppmd7Encoder(order, memory)
    stream.encode(before)
    return len(stream.encode(after)) + len(stream.flush())


def with_bz2(before: bytes, after: bytes) -> int:
    """As much of the training text as fits into one block with the validation text."""
    room = max(0, BZIP2_BLOCK - len(after))
    shared = before[-room:] if room else b""
    return len(bz2.compress(shared + after)) - len(bz2.compress(shared))


def with_zstd(before: bytes, after: bytes) -> int:
    """Level 19, with the training text as dictionary; level 22 saves no byte."""
    dictionary = zstandard.ZstdCompressionDict(before, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return len(zstandard.ZstdCompressor(level=19, dict_data=dictionary).compress(after))


def with_brotli(before: bytes, after: bytes) -> int:
    """Quality 10, a window of 16 MB, flushed in between; 11 saves 2% in twice the time."""
    stream = brotli.Compressor(quality=10, lgwin=24)
    stream.process(before)
    stream.flush()
    return len(stream.process(after)) + len(stream.finish())


# The slowest first, so that two cores share the work evenly.
COMPRESSORS = (
    ("PPMd", msg("order 6 or 16, whichever is better; 128 MB"), with_ppmd),
    ("xz", msg("level 6, 8 MB dictionary"), with_xz),
    ("brotli", msg("quality 10, 16 MB window"), with_brotli),
    ("zstd", msg("level 19, training text as dictionary"), with_zstd),
    ("bz2", msg("level 9, training text within its block of 900 kB"), with_bz2),
)
# Of 4.1 s of a core on tiny Shakespeare xz takes 1.6 and brotli 1.2.
QUICK = ("PPMd", "zstd", "bz2")
