"""Sampling: the distribution of the next token from a model's logits, and a token drawn from it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hornbook.config import SamplingConfig
from hornbook.errors import CheckpointError


def probabilities(
    logits_V: ArrayLike, sampling: SamplingConfig, context: Sequence[int] = ()
) -> NDArray[np.float64]:
    """The distribution that the next token is drawn from: [V] -> [V], summing to 1.

    Applied in this order: repetition penalty over the tokens of `context`, temperature, top-k,
    min-p, top-p. Temperature 0 gives the most likely token probability 1.
    Sources: Keskar et al. 2019, arXiv:1909.05858 (repetition penalty); Holtzman et al. 2020,
    arXiv:1904.09751 (top-p); Nguyen et al. 2024, arXiv:2407.01082 (min-p).
    """
    score_V = np.asarray(logits_V).astype(np.float64)
    if sampling.repetition_penalty != 1 and len(context) > 0:
        seen = np.array(sorted(set(context)))
        score, penalty = score_V[seen], sampling.repetition_penalty
        score_V[seen] = np.where(score > 0, score / penalty, score * penalty)
    if sampling.temperature == 0:
        greedy = np.zeros_like(score_V)
        greedy[score_V.argmax()] = 1.0
        return greedy
    # The maximum is subtracted first, so that a tiny temperature gives no infinities.
    p_V = np.exp((score_V - score_V.max()) / sampling.temperature)
    p_V /= p_V.sum()
    if 0 < sampling.top_k < len(p_V):
        p_V[np.argpartition(p_V, -sampling.top_k)[: -sampling.top_k]] = 0.0
    if sampling.min_p > 0:
        p_V[p_V < sampling.min_p * p_V.max()] = 0.0
    if sampling.top_p < 1:
        order = np.argsort(-p_V, kind="stable")
        # A token is kept while the mass before it is less than top_p: the first always is.
        before = p_V[order].cumsum() - p_V[order]
        p_V[order[before >= sampling.top_p * p_V.sum()]] = 0.0
    return p_V / p_V.sum()


def draw(p_V: NDArray[np.float64], generator: np.random.Generator) -> int:
    """A token drawn from a distribution; never one of probability 0.

    Raises: CheckpointError for probabilities that are not numbers: the weights are damaged.
    """
    cumulative = p_V.cumsum()
    if not cumulative[-1] > 0:
        raise CheckpointError(
            "the model's probabilities are not numbers: its weights are damaged, or its training "
            "diverged"
        )
    return int(np.searchsorted(cumulative / cumulative[-1], generator.random(), side="right"))
