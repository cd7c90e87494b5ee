"""Counts for the very text they were counted on: each part asks counts of the other parts.

A model's own text is no place to learn how far its counts can be trusted: there they are always
right. So the text is cut into parts, and each is asked of counts that have not seen it, as they
have not seen a new text.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from hornbook.models.ngram import Counted, NGramLanguageModel
from hornbook.ngram.counting import NGramModel, side_by_side

if TYPE_CHECKING:
    from torch import Tensor

    from hornbook.ngram.counting import Ids, Integers
    from hornbook.ngram.tuning import Recipe

N_PARTS = 5
# More would take more memory; numpy lets go of Python's lock, so that two cores take 0.7 the time.
AT_ONCE = 2


class CrossFit:
    """`n_parts` counts of one text, each without one part of it.

    A block begins in one part and may end in the next: what is left out goes on for a block.
    Raises: DataError when nothing is left to count.
    """

    def __init__(
        self,
        tokens: Integers,
        vocab_size: int,
        recipe: Recipe,
        *,
        block_size: int,
        context_size: int,
        n_parts: int = N_PARTS,
    ) -> None:
        self.edges = np.linspace(0, len(tokens), n_parts + 1).astype(np.int64)
        ends = [stop + block_size + 1 for stop in self.edges[1:]]

        def count(start: int, end: int) -> NGramModel:
            return recipe.count(without(tokens, start, end), vocab_size).rounded()

        with ThreadPoolExecutor(AT_ONCE) as pool:
            parts = list(pool.map(count, self.edges, ends))
        self.parts = NGramLanguageModel(side_by_side(parts), context_size)

    def counted(self, idx_BS: Tensor, starts_B: Ids, block_size: int) -> Counted:
        """What the counts without them say of the blocks that start at these places of the text.

        A row ends with its block; what stands before that is context. Negative places are those
        of a text before it, which was not counted.
        """
        part_B = np.maximum(0, self.edges.searchsorted(starts_B, side="right") - 1)
        return self.parts.counted(idx_BS, last=block_size, model_B=torch.from_numpy(part_B))


def without(tokens: Integers, start: int, stop: int) -> Integers:
    """A text less tokens[start:stop]."""
    return np.concatenate([tokens[:start], tokens[stop:]])
