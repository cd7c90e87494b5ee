"""Loss by context length: what a model gains from looking further back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Depth:
    """The loss of tokens with `first` to `last` tokens of context, in nats per character.

    `noise` is 1.96 standard errors, with pieces of text taken to be independent.
    """

    first: int
    last: int
    nats_per_char: float
    noise: float


@dataclass(frozen=True)
class ContextLoss:
    """The loss by context length; `last_doubling` is what the last doubling of it gains."""

    context_size: int
    depths: list[Depth]
    last_doubling: float | None
    noise: float | None


def loss_by_context(nats: Floats, context_size: int, tokens_per_char: float) -> ContextLoss:
    """The loss of tokens with 1 token of context, 2, 3 to 4, 5 to 8, and so on.

    `nats` [N] are losses in order, from pieces of `context_size` tokens; an incomplete last piece
    is left out. The last doubling compares the second half of each piece with the quarter before.
    """
    pieces = len(nats) // context_size
    whole = tokens_per_char * nats[: pieces * context_size].reshape(pieces, context_size)
    if pieces < 2:
        return ContextLoss(context_size, [], None, None)
    depths: list[Depth] = []
    first = 1
    while first <= context_size:
        last = min(context_size, max(1, 2 * (first - 1)))
        depths.append(Depth(first, last, *mean_and_noise(whole[:, first - 1 : last].mean(axis=1))))
        first = last + 1
    if context_size < 4:
        return ContextLoss(context_size, depths, None, None)
    half = context_size // 2
    gains = whole[:, context_size // 4 : half].mean(axis=1) - whole[:, half:].mean(axis=1)
    return ContextLoss(context_size, depths, *mean_and_noise(gains))


def mean_and_noise(values: Floats) -> tuple[float, float]:
    """The mean of two values or more, and 1.96 standard errors of it."""
    return float(values.mean()), 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
