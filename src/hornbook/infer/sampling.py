"""Sampling: the distribution of the next token from a model's logits, and a token drawn from it.

`infer.native_sampler` draws the same tokens in C, and this file where it is not available.

Shapes in names: R rows (texts generated together), V vocabulary.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hornbook.config import SamplingConfig
from hornbook.errors import CheckpointError
from hornbook.language import msg

Floats = NDArray[np.float64]
# Random numbers that a generation takes from its generator at once: a call takes longer than one.
UNIFORMS = 64
# Larger ones would be infinite in a difference.
LARGEST_LOGIT = 1e300


class Row(NamedTuple):
    """What a row's next token depends on beside its logits."""

    sampling: SamplingConfig
    context: Sequence[int] = ()  # all its tokens, for the repetition penalty
    generated: Sequence[int] = ()  # those that were drawn, for presence and frequency penalties


def probabilities(
    logits_V: ArrayLike,
    sampling: SamplingConfig,
    context: Sequence[int] = (),
    generated: Sequence[int] = (),
) -> Floats:
    """The distribution that the next token is drawn from: [V] -> [V]; see `distributions`."""
    return distributions(np.asarray(logits_V)[None], [Row(sampling, context, generated)])[0]


def distributions(logits_RV: ArrayLike, rows: Sequence[Row]) -> Floats:
    """The distributions that each row's next token is drawn from: [R,V] -> [R,V], summing to 1.

    Applied in this order: logit bias, repetition penalty over the tokens of `context`, presence
    and frequency penalties over those of `generated`, temperature, top-k, min-p, top-p. Temperature
    0 gives the most likely token probability 1. A row's numbers do not depend on the other rows.
    Sources: Keskar et al. 2019, arXiv:1909.05858 (repetition penalty); Holtzman et al. 2020,
    arXiv:1904.09751 (top-p); Nguyen et al. 2024, arXiv:2407.01082 (min-p); the OpenAI API reference
    (presence and frequency penalties, logit bias).
    """
    score_RV = np.array(logits_RV, np.float64)
    cut: list[int] = []
    greedy: list[int] = []
    temperature_R = []
    for number, row in enumerate(rows):
        sampling = row.sampling
        if sampling.changes_logits:
            penalise(score_RV[number], row)
        if sampling.temperature == 0:
            greedy.append(number)
        elif sampling.cuts:
            cut.append(number)
        temperature_R.append(sampling.temperature or 1.0)
    # The maximum is subtracted first: a tiny temperature then gives infinities only below 0, whose
    # probability is 0.
    p_RV = score_RV - score_RV.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        p_RV /= np.array(temperature_R)[:, None]
    np.exp(p_RV, out=p_RV)
    p_RV /= p_RV.sum(axis=1, keepdims=True)
    if cut:
        p_RV[cut] = cut_off(p_RV[cut], [rows[number].sampling for number in cut])
    if greedy:
        p_RV[greedy] = 0.0
        p_RV[greedy, score_RV[greedy].argmax(axis=1)] = 1.0
    return p_RV


def penalise(score_V: Floats, row: Row) -> None:
    """Apply a row's logit bias and penalties to its logits, in place."""
    sampling = row.sampling
    for token, bias in sampling.logit_bias.items():
        if token < len(score_V):
            score_V[token] += bias
    if sampling.repetition_penalty != 1 and len(row.context) > 0:
        seen = np.array(sorted(set(row.context)))
        score, penalty = score_V[seen], sampling.repetition_penalty
        with np.errstate(over="ignore"):  # by a penalty near 0
            score = np.where(score > 0, score / penalty, score * penalty)
        score_V[seen] = score.clip(-LARGEST_LOGIT, LARGEST_LOGIT)
    if (sampling.presence_penalty or sampling.frequency_penalty) and len(row.generated) > 0:
        for token, times in Counter(row.generated).items():
            score_V[token] -= sampling.presence_penalty + times * sampling.frequency_penalty


def cut_off(p_RV: Floats, samplings: Sequence[SamplingConfig]) -> Floats:
    """The distributions without the tokens that top-k, min-p and top-p drop: [R,V] -> [R,V].

    A token stays in order of its probability, of equal ones the first.
    """
    V = p_RV.shape[1]
    top_k_R1, min_p_R1, top_p_R1 = (
        np.array(values)[:, None]
        for values in zip(
            *((each.top_k or V, each.min_p, each.top_p) for each in samplings), strict=True
        )
    )
    sorted_RV = -np.sort(-p_RV, axis=1)
    kept_RV = np.arange(V) < top_k_R1
    kept_RV &= sorted_RV >= min_p_R1 * sorted_RV[:, :1]
    sorted_RV *= kept_RV
    # A token is kept while the mass before it is less than top_p, within rounding. The first always
    # is, also where top_p is so small that the product is 0.
    before_RV = sorted_RV.cumsum(axis=1) - sorted_RV
    mass_R1 = sorted_RV.sum(axis=1, keepdims=True)
    enough_RV = before_RV >= top_p_R1 * mass_R1 * (1 - 1e-12)
    enough_RV[:, 0] = False
    kept_RV &= ~enough_RV | (top_p_R1 >= 1)
    count_R = kept_RV.sum(axis=1)
    least_R1 = np.take_along_axis(sorted_RV, count_R[:, None] - 1, axis=1)
    stays_RV = p_RV >= least_R1
    for number in (stays_RV.sum(axis=1) > count_R).nonzero()[0]:  # equal ones, of which some go
        order_V = np.argsort(-p_RV[number], kind="stable")
        stays_RV[number, order_V[count_R[number] :]] = False
    p_RV = p_RV * stays_RV
    return p_RV / p_RV.sum(axis=1, keepdims=True)


def uniforms(seed: int) -> Iterator[float]:
    """Random numbers in [0, 1): those that a generation with this seed draws its tokens by."""
    generator = np.random.Generator(np.random.Philox(seed))
    while True:
        yield from generator.random(UNIFORMS).tolist()


def draw(p_RV: Floats, uniform_R: Sequence[float]) -> list[int]:
    """A token drawn from each distribution, by a number in [0, 1); never one of probability 0.

    Raises: CheckpointError for probabilities that are not numbers: the weights are damaged.
    """
    cumulative_RV = p_RV.cumsum(axis=1)
    last_R1 = cumulative_RV[:, -1:]
    if not (last_R1 > 0).all():
        raise not_numbers()
    cumulative_RV /= last_R1
    return (cumulative_RV > np.array(uniform_R)[:, None]).argmax(axis=1).tolist()


def not_numbers() -> CheckpointError:
    """The error of a model whose probabilities are not numbers."""
    return CheckpointError(
        msg(
            "the model's probabilities are not numbers: its weights are damaged, or its "
            "training diverged"
        )
    )


class LogProbs(NamedTuple):
    """Logarithms of the model's own probabilities: of the token that came, and of the highest."""

    token: float
    top: list[tuple[int, float]]


def log_probs(logits_RV: ArrayLike, tokens: Sequence[int], tops: Sequence[int]) -> list[LogProbs]:
    """The log-probabilities of each row's token and of its `top` most likely, before settings."""
    log_p_RV = np.array(logits_RV, np.float64)
    log_p_RV -= log_p_RV.max(axis=1, keepdims=True)
    log_p_RV -= np.log(np.exp(log_p_RV).sum(axis=1, keepdims=True))
    of_tokens = log_p_RV[np.arange(len(tokens)), tokens].tolist()
    best = likeliest(log_p_RV, max(tops))
    return [
        LogProbs(log_p, found[:top])
        for log_p, found, top in zip(of_tokens, best, tops, strict=True)
    ]


def likeliest(log_p_RV: Floats, top: int) -> list[list[tuple[int, float]]]:
    """Each row's `top` most likely tokens in order, of equal ones the first."""
    R, V = log_p_RV.shape
    if top == 0:
        return [[]] * R
    stays_RV = np.ones((R, V), bool)
    if top < V:
        stays_RV = log_p_RV >= np.partition(log_p_RV, V - top, axis=1)[:, V - top, None]
    row, token = stays_RV.nonzero()
    pairs = [*zip(token.tolist(), log_p_RV[row, token].tolist(), strict=True)]
    ends = stays_RV.sum(axis=1).cumsum().tolist()
    return [
        sorted(pairs[start:end], key=lambda pair: -pair[1])[:top]
        for start, end in pairwise([0, *ends])
    ]
