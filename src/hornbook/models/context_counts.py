"""N-grams of the context itself: what has followed the same tokens earlier in the block.

A name that has occurred will occur again, and no n-gram table of another text can know it.

Shapes in names: B batch, S the positions given, T the last of them, V vocabulary, R the lengths of
n-gram.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.kernels import ngrams
from hornbook.ngram.model import shortest_useful_match

# Initial strengths: how often an n-gram must have occurred for its successors to weigh as much as
# the shorter n-grams, shortest first. Values learned on tiny Shakespeare end near these.
STRENGTHS = (100.0, 27.0, 12.0, 7.0, 4.0, 3.0, 2.0)
LENGTHS = len(STRENGTHS)


class ContextCounts(nn.Module):
    """Mixes a distribution with the successors of matching n-grams of `shortest` tokens and more.

    For each of LENGTHS lengths in turn: p <- (count + strength * p) / (total + strength), with
    learned strengths. Also called a cache language model.
    Source: the hierarchical Dirichlet model, MacKay & Peto 1995.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.shortest = shortest_useful_match(vocab_size)
        self.log_strength = nn.Parameter(torch.tensor([math.log(each) for each in STRENGTHS]))
        self.kernels: ngrams.NGramKernels | None = None

    def forward(self, idx_BS: Tensor, p_BTV: Tensor) -> tuple[Tensor, Tensor]:
        """The mixed distributions after the last T positions, and how often each n-gram occurred.

        Shapes: [B,S], [B,T,V] -> [B,T,V], [B,T,R].
        Raises: IndexError for a token outside the vocabulary.
        """
        on_cpu = idx_BS.device.type == "cpu" and not p_BTV.requires_grad
        if self.kernels and on_cpu and idx_BS.size(1) <= ngrams.LONGEST_ROW:
            return ngrams.mix(self.kernels, idx_BS, p_BTV, self.log_strength, self.shortest)
        return self.by_torch(idx_BS, p_BTV)

    def by_torch(self, idx_BS: Tensor, p_BTV: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` in PyTorch: the reference."""
        (B, T, V), S = p_BTV.shape, idx_BS.size(1)
        text = idx_BS.flatten()
        here, there = pairs(ngram_numbers(idx_BS, self.shortest, V), T)
        length = torch.full_like(here, self.shortest)
        row = here // S * T + here % S - (S - T)
        totals = [row.bincount(minlength=B * T)]
        alive = torch.arange(len(row), device=row.device)
        for longer in range(self.shortest, self.shortest + LENGTHS - 1):
            alive = alive[there[alive] % S >= longer]
            alive = alive[text[there[alive] - longer] == text[here[alive] - longer]]
            length[alive] += 1
            totals.append(row[alive].bincount(minlength=B * T))
        came_BTR = torch.stack(totals, dim=-1).view(B, T, LENGTHS).to(p_BTV.dtype)
        # By length: what one match gives its successor, and what is left to the shorter lengths.
        strength_R = self.log_strength.exp()
        share_BTR = 1 / (came_BTR + strength_R)
        left_BTR = (strength_R * share_BTR).flip(-1).cumprod(-1).flip(-1)
        given_BTR = share_BTR * F.pad(left_BTR[..., 1:], (0, 1), value=1.0)
        # A match of so many tokens is a match of every shorter length too.
        weight = given_BTR.cumsum(-1).view(-1, LENGTHS)[row, length - self.shortest]
        mixed = (left_BTR[..., :1] * p_BTV).flatten()
        mixed = mixed.index_add(0, row * V + text[there + 1], weight)
        return mixed.view(B, T, V), came_BTR


def ngram_numbers(idx_BS: Tensor, length: int, vocab_size: int) -> Tensor:
    """A number for the n-gram that ends at each position, -1 where it would begin before the row.

    Shapes: [B,S] -> [B,S]; equal numbers are equal n-grams.
    """
    number_BS = torch.zeros_like(idx_BS)
    for back in reversed(range(length)):
        number_BS = number_BS * vocab_size + F.pad(idx_BS, (back, 0))[:, : idx_BS.size(1)]
    number_BS[:, : length - 1] = -1
    return number_BS


def pairs(number_BS: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """All pairs of one of the last T positions and an earlier one of its row with its number.

    Both are places in the flattened rows; a number below 0 matches nothing. Sorting takes a
    thirtieth of the time of comparing all positions (2 rows of 4,096).
    """
    B, S = number_BS.shape
    place = torch.arange(B * S, device=number_BS.device)
    numbers, order = (number_BS * B + place.view(B, S) // S).flatten().sort(stable=True)
    begins = torch.ones_like(numbers, dtype=torch.bool)
    begins[1:] = numbers[1:] != numbers[:-1]
    first = torch.where(begins, place, 0).cummax(0).values
    n_earlier = torch.where((numbers >= 0) & (order % S >= S - T), place - first, 0)
    here = place.repeat_interleave(n_earlier)
    which = torch.arange(len(here), device=here.device) - (n_earlier.cumsum(0) - n_earlier)[here]
    return order[here], order[first[here] + which]
