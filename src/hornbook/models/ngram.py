"""N-gram models under the models' protocol: their tables, read for every position of a block.

Shapes in names: B batch, S the positions given, T the last of them, V vocabulary, P = B * T
positions, N the model's order: its contexts are 0 to N - 1 tokens long.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from hornbook.config import ModelSpec
from hornbook.kernels import ngrams
from hornbook.language import msg
from hornbook.models.language_model import LanguageModel
from hornbook.ngram.model import Level, NGramModel, side_by_side

if TYPE_CHECKING:
    from hornbook.ngram.counting import Ids, Integers
    from hornbook.ngram.tuning import Recipe

# In place of a context's number: it was never seen; or there are too few tokens before it.
UNSEEN, ABSENT = -1, -2
# Cross-fitting cuts a text into so many parts.
N_PARTS = 5
# More would take more memory. numpy releases Python's lock, so that two cores take 0.7 of the time.
PARTS_AT_ONCE = 2


class NGramProbs(NamedTuple):
    """What n-gram tables predict after each position."""

    probabilities: Tensor  # [B,T,V]
    backoff: Tensor  # [B,T,N], by order: the backoff weight; 1 where the context was never seen


class NGramLanguageModel(LanguageModel):
    """An `NGramModel` whose logits are log-probabilities.

    It has nothing to train and nothing in its state dict: the tables follow from the text, so that
    a run keeps them once, beside its checkpoints.
    """

    def __init__(self, ngram_model: NGramModel, context_size: int) -> None:
        super().__init__(ngram_model.vocab_size, context_size)
        self.order = ngram_model.order
        self.smoothing = ngram_model.smoothing
        # Windows that share this much give every token its whole context.
        self.overlap = min(ngram_model.order, context_size) - 1
        self.rest_is_uniform = ngram_model.smoothing == "add-k"
        self.tables = [
            Table(level, ngram_model.vocab_size, rest_is_uniform=self.rest_is_uniform)
            for level in ngram_model.levels
        ]
        self.registered_tables = nn.ModuleList(self.tables)  # so that they move with the model
        self.kernels: ngrams.NGramKernels | None = None

    @property
    def summary(self) -> str:
        """Size and order in one line."""
        n_grams = sum(len(table.keys) for table in self.tables)
        return msg(
            "{number:,} n-grams of up to {order} tokens, {smoothing}",
            number=n_grams,
            order=self.order,
            smoothing=self.smoothing,
        )

    def ngram_model(self) -> NGramModel:
        """The model that this one was made from; it shares the arrays where they are on a CPU."""
        tables = (
            Level(*(each.cpu().numpy() for each in (table.keys, table.kept, table.back)))
            for table in self.tables
        )
        return NGramModel(self.vocab_size, self.smoothing, list(tables))

    @torch.no_grad()
    def lookup(
        self, idx_BS: Tensor, last: int | None = None, model_B: Tensor | None = None
    ) -> NGramProbs:
        """Probabilities of the token after each position, or after the last few.

        `model_B` names the model that each row reads, where the tables hold several.
        Shapes: [B,S] -> [B,T,V], where every row sums to 1, and [B,T,N]; T = S, or `last`.
        Raises: IndexError for a token outside the vocabulary.
        """
        S = idx_BS.size(1)
        T = S if last is None else min(last, S)
        if self.kernels and idx_BS.device.type == "cpu" and self.fits_kernels():
            tables = [(table.keys, table.first, table.kept, table.back) for table in self.tables]
            found = ngrams.lookup(
                self.kernels, tables, idx_BS, T, model_B,
                vocab_size=self.vocab_size, rest_is_uniform=self.rest_is_uniform,
            )  # fmt: skip
            return NGramProbs(*found)
        # Only the longest context matters of what comes before.
        whole = self.lookup_by_torch(idx_BS[:, -T - max(0, self.order - 2) :], model_B)
        return NGramProbs(*(each[:, -T:] for each in whole))

    def fits_kernels(self) -> bool:
        """Whether the C kernels have room for these tables."""
        return self.order <= ngrams.MOST_ORDERS and all(
            len(table.keys) < ngrams.MOST_PLACES for table in self.tables
        )

    def lookup_by_torch(self, idx_BT: Tensor, model_B: Tensor | None = None) -> NGramProbs:
        """`lookup` at every position, in PyTorch: the reference."""
        B, T = idx_BT.shape
        empty_P, *contexts_NP = self.contexts(idx_BT, model_B)
        p_PV = torch.zeros(B * T, self.vocab_size, device=idx_BT.device)
        # Each context adds its own share, the longest first; `left_P` is what is still to share.
        left_P = torch.ones_like(p_PV[:, 0])
        backoff_NP = []
        for table, contexts_P in zip(self.tables[:0:-1], reversed(contexts_NP), strict=True):
            backoff_NP.insert(0, table.add_to(p_PV, contexts_P, left_P))
        p_PV.addcmul_(self.tables[0].dense()[empty_P], left_P[:, None])
        backoff_NP.insert(0, self.tables[0].back[empty_P])
        return NGramProbs(p_PV.view(B, T, -1), torch.stack(backoff_NP, dim=1).view(B, T, -1))

    def contexts(self, idx_BT: Tensor, model_B: Tensor | None = None) -> list[Tensor]:
        """The numbers of the last 0, 1, ... N - 1 tokens up to each position of the block.

        Shapes: [B,T] -> N of [P].
        """
        empty_B = torch.zeros_like(idx_BT[:, 0]) if model_B is None else model_B
        numbers_BT = empty_B[:, None].expand_as(idx_BT)
        found = [numbers_BT.flatten()]
        for length, table in enumerate(self.tables[:-1], start=1):
            # The entry before the first token is read for length 1 alone.
            before_BT = torch.cat([empty_B[:, None], numbers_BT[:, :-1]], dim=1)
            numbers_BT = table.number(before_BT, idx_BT)
            numbers_BT[:, : length - 1] = ABSENT
            found.append(numbers_BT.flatten())
        return found

    def forward(
        self, idx_BT: Tensor, targets_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return self.logits_and_loss(self.lookup(idx_BT).probabilities.log(), targets_BT)

    def next_logits(self, idx_BT: Tensor) -> Tensor:
        """Log-probabilities of the token after the last one: [B,T] -> [B,V]."""
        logits_BTV, _ = self(idx_BT[:, -max(1, self.order - 1) :])
        return logits_BTV[:, -1]


class Table(nn.Module):
    """The n-grams of one order: `ngram.model.Level` in torch."""

    keys: Tensor
    first: Tensor
    kept: Tensor
    back: Tensor

    def __init__(self, level: Level, vocab_size: int, *, rest_is_uniform: bool) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.rest_is_uniform = rest_is_uniform
        places = np.int32 if len(level.keys) < 2**31 else np.int64
        lengths = np.bincount(level.keys // vocab_size, minlength=len(level.backoff))
        for name, array in {
            "keys": level.keys,
            # Where each context's n-grams begin.
            "first": np.append(0, lengths.cumsum()).astype(places),
            "kept": level.probs.astype(np.float32, copy=False),
            "back": level.backoff.astype(np.float32, copy=False),
        }.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def number(self, contexts: Tensor, tokens: Tensor) -> Tensor:
        """The number of each n-gram of a context and a token; any one shape."""
        wanted = contexts * self.vocab_size + tokens
        places = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
        return torch.where((contexts >= 0) & (self.keys[places] == wanted), places, UNSEEN)

    def dense(self) -> Tensor:
        """The distributions after the table's contexts, backed off to the uniform one: [_, V]."""
        p = (self.back / self.vocab_size)[:, None].repeat(1, self.vocab_size)
        p.view(-1)[self.keys] += self.kept
        return p

    def add_to(self, p_PV: Tensor, contexts_P: Tensor, left_P: Tensor) -> Tensor:
        """Add these contexts' probabilities, times `left_P`, to p, and lower `left_P`, in place.

        Returns the backoff weights, [P].
        """
        seen = (contexts_P >= 0).nonzero().flatten()
        contexts = contexts_P[seen]
        back_P = torch.ones_like(left_P).index_copy_(0, seen, self.back[contexts])
        # Each context's n-grams are adjacent; those of all contexts are one ragged array.
        starts = self.first[contexts].long()
        lengths = self.first[contexts + 1].long() - starts
        ends = lengths.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0

        def spread(values: Tensor) -> Tensor:
            return values.repeat_interleave(lengths, output_size=total)

        grams = torch.arange(total, device=p_PV.device) + spread(starts - (ends - lengths))
        # No entry occurs twice, so the order of addition changes no bit.
        entries = self.keys[grams] + spread((seen - contexts) * self.vocab_size)
        p_PV.view(-1)[entries] += self.kept[grams] * spread(left_P[seen])
        if self.rest_is_uniform:
            there_P = contexts_P != ABSENT
            p_PV += (left_P * back_P * there_P / self.vocab_size)[:, None]
            left_P *= ~there_P
        else:
            left_P *= back_P
        return back_P


class CrossFit:
    """N-gram models of one text, each counted without one part of it.

    A network learns how far to trust n-grams from n-grams that have not counted its own targets, as
    they will not have counted a new text. A block that begins in one part may end in the next, so
    the part left out is a block longer. `models` has the models side by side, of a text of
    `n_tokens` whose place in the whole one is `first`.
    """

    def __init__(
        self, models: NGramLanguageModel, n_tokens: int, *, first: int = 0, n_parts: int = N_PARTS
    ) -> None:
        self.models, self.first = models, first
        self.edges = part_edges(n_tokens, n_parts)

    @classmethod
    def count(
        cls,
        tokens: Integers,
        vocab_size: int,
        recipe: Recipe,
        *,
        block_size: int,
        context_size: int,
        first: int = 0,
        n_parts: int = N_PARTS,
    ) -> Self:
        """Count each model. Raises: DataError when nothing is left to count."""
        edges = part_edges(len(tokens), n_parts)
        ends = [stop + block_size + 1 for stop in edges[1:]]

        def count_rest(start: int, end: int) -> NGramModel:
            rest = np.concatenate([tokens[:start], tokens[end:]])
            return recipe.count(rest, vocab_size).rounded()

        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            parts = list(pool.map(count_rest, edges, ends))
        models = NGramLanguageModel(side_by_side(parts), context_size)
        return cls(models, len(tokens), first=first, n_parts=n_parts)

    def lookup(self, idx_BS: Tensor, starts_B: Ids, block_size: int) -> NGramProbs:
        """Probabilities for blocks that start at these places of the text, its part left out.

        A row ends with its block; what comes before it is context.
        """
        places_B = starts_B - self.first
        part_B = np.maximum(0, self.edges.searchsorted(places_B, side="right") - 1)
        return self.models.lookup(idx_BS, last=block_size, model_B=torch.from_numpy(part_B))


def part_edges(n_tokens: int, n_parts: int) -> Ids:
    """Where the parts of a text begin and end: [n_parts + 1]."""
    return np.linspace(0, n_tokens, n_parts + 1).astype(np.int64)


SPECS = {
    "ngram": ModelSpec(
        idea=msg("counting, no network"),
        network=None,
        parameters=lambda *_: 0,
        activations=lambda _: 0.0,
        preset={
            "block_size": 256,
            "steps": 1,
            "eval_interval": 1,
            "checkpoint_interval": 1,
            "precision": "float32",
            "compile": "off",
        },
        branch=True,
    )
}
