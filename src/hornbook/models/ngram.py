"""The rung that counts: an n-gram model's tables, read for every position of a block at once.

Shapes in names: B batch, T time, V vocabulary, P = B * T positions, N the model's order: its
contexts are 0 to N - 1 tokens long.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hornbook.config import ModelSpec
from hornbook.models.language_model import LanguageModel
from hornbook.ngram.counting import Level, NGramModel

# In place of a context's number: it was never seen; or there are too few tokens before it.
UNSEEN, ABSENT = -1, -2


class Counted(NamedTuple):
    """What the counts say of the token after each position."""

    probabilities: Tensor  # [B,T,V]
    back: Tensor  # [B,T,N], by order: the share left to shorter contexts; 1 where nothing was seen


class NGramLanguageModel(LanguageModel):
    """A counted `NGramModel` under the models' protocol: the logits are log-probabilities.

    There is nothing in it to train, and nothing in its state_dict: the tables follow from the
    text, so that a run keeps them once, beside its checkpoints, and not in each.
    """

    def __init__(self, counted: NGramModel, context_size: int) -> None:
        super().__init__(counted.vocab_size, context_size)
        self.order = counted.order
        self.smoothing = counted.smoothing
        # Windows that share this much give every token its whole context.
        self.overlap = min(counted.order, context_size) - 1
        rest_is_uniform = counted.smoothing == "add-k"
        self.tables = [
            Table(level, counted.vocab_size, rest_is_uniform=rest_is_uniform)
            for level in counted.levels
        ]
        self.registered_tables = nn.ModuleList(self.tables)  # so that they move with the model

    @property
    def summary(self) -> str:
        """What was counted, in a line."""
        n_grams = sum(len(table.keys) for table in self.tables)
        return f"{n_grams:,} counted runs of up to {self.order} tokens, {self.smoothing}"

    def as_counted(self) -> NGramModel:
        """The model that this one was made from, of the same arrays where they are on a CPU."""
        tables = (
            Level(*(each.cpu().numpy() for each in (table.keys, table.kept, table.back)))
            for table in self.tables
        )
        return NGramModel(self.vocab_size, self.smoothing, list(tables))

    def contexts(self, idx_BT: Tensor, model_B: Tensor | None = None) -> list[Tensor]:
        """The numbers of the last 0, 1, ... N - 1 tokens up to each position, in the block.

        Shapes: [B,T] -> N of [P].
        """
        empty_B = torch.zeros_like(idx_BT[:, 0]) if model_B is None else model_B
        numbers_BT = empty_B[:, None].expand_as(idx_BT)
        found = [numbers_BT.flatten()]
        for length, table in enumerate(self.tables[:-1], start=1):
            # What is put before the first token is read for the first length alone.
            before_BT = torch.cat([empty_B[:, None], numbers_BT[:, :-1]], dim=1)
            numbers_BT = table.number(before_BT, idx_BT)
            numbers_BT[:, : length - 1] = ABSENT
            found.append(numbers_BT.flatten())
        return found

    @torch.no_grad()
    def counted(
        self, idx_BS: Tensor, last: int | None = None, model_B: Tensor | None = None
    ) -> Counted:
        """What the counts say of the token after each position, or after the last few.

        `model_B` says which model each row asks, where several stand side by side.
        Shapes: [B,S] -> [B,T,V], where every row sums to 1, and [B,T,N]; T = S, or `last`.
        """
        if last is not None and last < idx_BS.size(1):
            before = max(0, self.order - 2)
            found = self.counted(idx_BS[:, -last - before :], model_B=model_B)
            return Counted(*(each[:, -last:] for each in found))
        idx_BT = idx_BS
        B, T = idx_BT.shape
        empty_P, *contexts_NP = self.contexts(idx_BT, model_B)
        p_PV = torch.zeros(B * T, self.vocab_size, device=idx_BT.device)
        # The longest context gives what it keeps, and leaves the rest to the next shorter one.
        left_P = torch.ones_like(p_PV[:, 0])
        back_NP = []
        for table, contexts_P in zip(self.tables[:0:-1], reversed(contexts_NP), strict=True):
            back_NP.insert(0, table.hand_out(p_PV, contexts_P, left_P))
        p_PV.addcmul_(self.tables[0].dense()[empty_P], left_P[:, None])
        back_NP.insert(0, self.tables[0].back[empty_P])
        return Counted(p_PV.view(B, T, -1), torch.stack(back_NP, dim=1).view(B, T, -1))

    def forward(
        self, idx_BT: Tensor, targets_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return self.logits_and_loss(self.counted(idx_BT).probabilities.log(), targets_BT)

    def next_logits(self, idx_BT: Tensor) -> Tensor:
        """Log-probabilities of the token after the last one: [B,T] -> [B,V]."""
        logits_BTV, _ = self(idx_BT[:, -max(1, self.order - 1) :])
        return logits_BTV[:, -1]


class Table(nn.Module):
    """The n-grams of one order, and what their contexts say: `hornbook.counting.Level` in torch."""

    keys: Tensor
    first: Tensor
    kept: Tensor
    back: Tensor

    def __init__(self, level: Level, vocab_size: int, *, rest_is_uniform: bool) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.rest_is_uniform = rest_is_uniform
        places = np.int32 if len(level.keys) < 2**31 else np.int64
        lengths = np.bincount(level.keys // vocab_size, minlength=len(level.back))
        for name, array in {
            "keys": level.keys,
            # Where each context's n-grams begin.
            "first": np.append(0, lengths.cumsum()).astype(places),
            "kept": level.kept.astype(np.float32, copy=False),
            "back": level.back.astype(np.float32, copy=False),
        }.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def number(self, contexts: Tensor, tokens: Tensor) -> Tensor:
        """The number of each context with a token after it; any one shape."""
        wanted = contexts * self.vocab_size + tokens
        places = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
        return torch.where((contexts >= 0) & (self.keys[places] == wanted), places, UNSEEN)

    def dense(self) -> Tensor:
        """The distributions of the table's contexts, over nothing but the uniform one: [_, V]."""
        p = (self.back / self.vocab_size)[:, None].repeat(1, self.vocab_size)
        p.view(-1)[self.keys] += self.kept
        return p

    def hand_out(self, p_PV: Tensor, contexts_P: Tensor, left_P: Tensor) -> Tensor:
        """Add to p what these contexts keep of the share `left`, and lower that, both in place.

        Gives the shares of theirs that go to the shorter ones, [P].
        """
        seen = (contexts_P >= 0).nonzero().flatten()
        contexts = contexts_P[seen]
        back_P = torch.ones_like(left_P).index_copy_(0, seen, self.back[contexts])
        # Each context's n-grams stand side by side; together they are one ragged array.
        starts = self.first[contexts].long()
        lengths = self.first[contexts + 1].long() - starts
        ends = lengths.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0

        def spread(values: Tensor) -> Tensor:
            return values.repeat_interleave(lengths, output_size=total)

        grams = torch.arange(total, device=p_PV.device) + spread(starts - (ends - lengths))
        # No entry comes twice, so the sum is the same whatever the order of adding.
        entries = self.keys[grams] + spread((seen - contexts) * self.vocab_size)
        p_PV.view(-1)[entries] += self.kept[grams] * spread(left_P[seen])
        if self.rest_is_uniform:
            there_P = contexts_P != ABSENT
            p_PV += (left_P * back_P * there_P / self.vocab_size)[:, None]
            left_P *= ~there_P
        else:
            left_P *= back_P
        return back_P


SPECS = {
    "ngram": ModelSpec(
        idea="counting, no network",
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
