"""Who proposes what in a model with n-grams: the network, the n-grams, the cache, and the gate.

Shapes in names: T time, V vocabulary, R the lengths of n-gram in the context.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from hornbook.lens.seen import Floats, Ids, Vote
from hornbook.lens.tape import Tape
from hornbook.models.context_counts import ContextCounts
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.ngram import NGramLanguageModel
from hornbook.text.arrays import Tokens

# A smaller share of a mixed probability is the rounding error of float32, and none of the cache's.
ROUNDING = 1e-6


def joined_votes(
    model: GPTWithCounts, tape: Tape, idx_T: Tensor, train: Tokens | None
) -> dict[str, Vote]:
    """The four votes in one pass of a joined model; see `Seen.votes` for how they make the logits.

    `train` are the tokens that the n-grams were counted in.
    """
    p_TV: Tensor = tape.inputs[model.recent][1][0]
    mixed_TV, came_TR = (each[0] for each in tape.outputs[model.recent])
    left_T = left_to_ngrams(model.recent, came_TR)
    share_T = 1 - left_T
    cache_TV = mixed_TV - left_T[:, None] * p_TV
    cache_TV *= cache_TV > ROUNDING * mixed_TV
    cache_TV /= cache_TV.sum(-1, keepdim=True).clamp_min(torch.finfo().tiny)
    longest_T = (came_TR > 0).sum(-1)
    matched_T = torch.where(longest_T > 0, model.recent.shortest + longest_T - 1, 0)
    times_T = came_TR.gather(-1, (longest_T - 1).clamp_min(0)[:, None])[:, 0]
    network_TV = tape.made(model.network.logits).softmax(-1)
    gate_T = tape.made(model.trust)[:, 0]
    return {
        "network": Vote(array(network_TV), np.ones(len(idx_T), np.float32)),
        "ngrams": ngram_vote(model.counts, idx_T, p_TV, left_T, train),
        "cache": Vote(array(cache_TV), array(share_T), integers(matched_T), integers(times_T)),
        "gate": Vote(array(mixed_TV), array(gate_T)),
    }


def left_to_ngrams(cache: ContextCounts, came_TR: Tensor) -> Tensor:
    """The weight that the cache leaves to the n-grams of the training text: [T,R] -> [T]."""
    strength_R = cache.log_strength.detach().exp()
    return (strength_R / (came_TR + strength_R)).prod(-1)


def ngram_vote(
    model: NGramLanguageModel, idx_T: Tensor, p_TV: Tensor, weight_T: Tensor, train: Tokens | None
) -> Vote:
    """What n-grams of the training text propose, and the longest context that they know."""
    contexts_NT = torch.stack(model.contexts(idx_T[None]))
    # An n-gram that was counted has counted beginnings and ends, so that lengths have no gap.
    matched_T = integers((contexts_NT >= 0).sum(0) - 1)
    count = None if train is None else occurrences(train, integers(idx_T), matched_T)
    return Vote(array(p_TV), array(weight_T), matched_T, count)


def mixer_vote(before_TV: Tensor, logits_TV: Tensor) -> Vote:
    """The prediction after a mixer's correction, and the share of the probability that it moved."""
    p_TV = logits_TV.softmax(-1)
    moved_T = (p_TV - before_TV.softmax(-1)).abs().sum(-1) / 2
    return Vote(array(p_TV), array(moved_T))


def occurrences(train: Tokens, ids: Ids, matched: Iterable[int]) -> Ids:
    """How often the last `matched` tokens up to each position stand in a text: [T] -> [T]."""
    ends = {int(token): np.flatnonzero(train == token) for token in np.unique(ids)}
    found = []
    for at, length in enumerate(matched):
        places = ends[int(ids[at])]
        for back in range(1, length):
            places = places[places >= back]
            places = places[train[places - back] == ids[at - back]]
        found.append(len(places) if length else len(train))
    return np.array(found, np.int64)


def array(tensor: Tensor) -> Floats:
    """A tensor as an array of its own."""
    return tensor.detach().float().cpu().numpy().copy()


def integers(tensor: Tensor) -> Ids:
    """A tensor as whole numbers."""
    return tensor.detach().long().cpu().numpy()
