"""Documents that are nearly the same, by MinHash of windows of their tokens.

Of two documents the share of equal numbers in their signatures estimates the share of windows that
both have. Source: Broder 1997, "On the resemblance and containment of documents".
"""

import numpy as np
from numpy.typing import NDArray

from hornbook.text.order import mixed
from hornbook.text.shards import Tokens

Signatures = NDArray[np.uint32]

NUMBERS = 128
# A window of a pretrained or BPE tokenizer has about six words; letters are shorter.
WINDOW, WINDOW_OF_LETTERS, SMALL_VOCABULARY = 8, 32, 512
# Signatures that agree in all numbers of a band are compared: with 32 bands of 4, two documents
# that share 80% all but certainly (1 - (1 - 0.8^4)^32), and of those with 30% one pair in four.
BAND = 4
AT_ONCE = 1 << 12

_DRAWN = np.random.Generator(np.random.Philox(key=1997))
FACTORS = _DRAWN.integers(1 << 63, size=NUMBERS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
TERMS = _DRAWN.integers(1 << 63, size=NUMBERS, dtype=np.uint64)


def signature(ids: Tokens, vocab_size: int) -> Signatures:
    """The signature of a document: for each of NUMBERS hash functions its least value.

    Shapes: [N] -> [NUMBERS]. The hash functions multiply and shift.
    Source: Dietzfelbinger et al. 1997, "A reliable randomized algorithm for the closest-pair
    problem".
    """
    size = WINDOW if vocab_size > SMALL_VOCABULARY else WINDOW_OF_LETTERS
    numbers = ids.astype(np.uint64)
    count = max(1, len(numbers) - size + 1)
    windows = np.zeros(count, np.uint64)
    for place in range(min(size, len(numbers))):
        windows = mixed(windows * np.uint64(0x9E3779B97F4A7C15) + numbers[place : place + count])
    least = np.full(NUMBERS, 0xFFFFFFFF, np.uint32)
    for start in range(0, count, AT_ONCE):
        part = windows[start : start + AT_ONCE, None] * FACTORS + TERMS
        least = np.minimum(least, (part >> np.uint64(32)).min(axis=0).astype(np.uint32))
    return least


def similar_to_earlier(signatures: Signatures, share: float) -> NDArray[np.bool_]:
    """Whether each document is similar to one before it: they have this share of windows in common.

    Shapes: [D, NUMBERS] -> [D].
    """
    found = np.zeros(len(signatures), bool)
    for start in range(0, NUMBERS, BAND):
        keys = np.zeros(len(signatures), np.uint64)
        for column in signatures[:, start : start + BAND].T:
            keys = mixed(keys * np.uint64(3) + column.astype(np.uint64))
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(order)]
        # The first document with the same band; documents are in their order within a group.
        firsts = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
        pairs = ~begins & ~found[order]
        later, earlier = order[pairs], firsts[pairs]
        for begin in range(0, len(later), 1 << 16):
            one, other = later[begin : begin + (1 << 16)], earlier[begin : begin + (1 << 16)]
            alike = (signatures[one] == signatures[other]).mean(axis=1)
            found[one[alike >= share]] = True
    return found
