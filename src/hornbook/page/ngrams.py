"""N-gram tables for the page: pruned to a size, and packed.

A context's backoff weight is not stored: it is what its tokens leave of 1. So a table stays a
probability distribution whatever is removed from it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hornbook.ngram.counting import Ids, Integers, checked_tokens, count_ngrams
from hornbook.ngram.model import Level, NGramModel
from hornbook.page.packing import Pack

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

# One byte a share: powers of e from 1 down to a millionth (`SHARE_STEP` in ngram.js).
SHARE_STEP = np.log(1e6) / 255
# What an n-gram takes in the page: a token, a share, and its part of the contexts' counts, after
# compression and in base64 (measured on tiny Shakespeare, orders 5 to 10).
BYTES_PER_NGRAM = 2.2
EXACT_BYTES_PER_NGRAM = 6.0  # with shares in float32

# Of larger tables the longest n-grams are left out unranked: four million take a second.
MOST_RANKED = 4_000_000


def prune(model: NGramModel, most: int) -> list[Mask]:
    """Which n-grams to keep, about `most`: those without which the text would cost most.

    An n-gram's cost is its probability in the model's own text times what its token loses when only
    the shorter context predicts it. An n-gram whose continuation is kept stays.
    Source: Stolcke 1998, arXiv:cs/0006025, without the change of other tokens' backoff.
    """
    costs = removal_costs(model)
    ranked = np.sort(np.concatenate(costs))
    low, high = 0, len(ranked) - 1
    while low < high:  # kept beginnings come on top of what a threshold keeps
        middle = (low + high) // 2
        if sum(int(kept.sum()) for kept in above(model, costs, ranked[middle])) <= most:
            high = middle
        else:
            low = middle + 1
    return above(model, costs, ranked[low])


def occurrences(model: NGramModel, tokens: Integers) -> list[Integers]:
    """How often each n-gram stands in a text; empty where the model was counted on another one."""
    text, found = checked_tokens(tokens, model.vocab_size), list[Integers]()
    for counts, level in zip(
        count_ngrams(text, model.vocab_size, model.order), model.levels, strict=True
    ):
        if not np.array_equal(counts.keys, level.keys):
            return []
        found.append(counts.occurrences)
    return found


def removal_costs(model: NGramModel) -> list[Floats]:
    """For each n-gram what removing it costs, in nats a token of the text; the 1-grams are kept."""
    V = model.vocab_size
    uniform = np.float32(1 / V)
    costs: list[Floats] = []
    contexts_p = np.ones(1, np.float32)  # of each context: how often the model would write it
    suffixes: Ids = np.zeros(1, np.int64)  # of each context: the number of the shorter one
    shorter_p: Floats = np.full(V, uniform, np.float32)
    shorter: Ids = np.arange(V)  # the keys that `shorter_p` belongs to
    ranked = 0
    for n, (keys, probs, backoff) in enumerate(model.levels):
        ranked += len(keys)
        if n and ranked > MOST_RANKED:
            costs.append(np.full(len(keys), -np.inf, np.float32))
            costs[-1][0] = np.inf
            continue
        contexts, tokens = np.divmod(keys, V)
        if n == 0:
            lower = np.full(len(keys), uniform, np.float32)
            numbers: Ids = np.zeros(len(keys), np.int64)
        else:
            numbers = shorter.searchsorted(suffixes[contexts] * V + tokens)
            lower = uniform if model.smoothing == "add-k" else shorter_p[numbers]
        own = np.asarray(probs, np.float32)
        left = np.asarray(backoff, np.float32)[contexts]
        full = own + left * lower
        contexts_p = contexts_p[contexts] * full
        removed = (left + own) * lower
        with np.errstate(divide="ignore"):
            cost = contexts_p * np.log(full / removed)
        cost[cost.argmax()] = np.inf  # no order becomes empty
        costs.append(cost)
        shorter, shorter_p, suffixes = keys, full, numbers
    costs[0] = np.full_like(costs[0], np.inf)
    return costs


def above(model: NGramModel, costs: list[Floats], least: float) -> list[Mask]:
    """For each n-gram whether it costs `least` or more, or begins one that does."""
    kept = [cost >= least for cost in costs]
    for n in range(len(kept) - 1, 0, -1):
        kept[n - 1][model.levels[n].keys[kept[n]] // model.vocab_size] = True
    return kept


def selected(model: NGramModel, kept: list[Mask]) -> NGramModel:
    """The model with these n-grams, in which a context gives back what its tokens lost."""
    V = model.vocab_size
    levels: list[Level] = []
    numbers: Ids = np.zeros(1, np.int64)  # of each context: its new number
    n_contexts = 1
    for level, chosen in zip(model.levels, kept, strict=True):
        contexts, tokens = np.divmod(level.keys[chosen], V)
        keys = numbers[contexts] * V + tokens
        levels.append(completed(keys, np.asarray(level.probs[chosen], np.float32), n_contexts, V))
        numbers = np.cumsum(chosen) - 1
        n_contexts = int(chosen.sum())
    return NGramModel(V, model.smoothing, levels)


def completed(keys: Ids, shares: Floats, n_contexts: int, vocab_size: int) -> Level:
    """A level of these shares, scaled down where they sum to more than 1."""
    contexts = keys // vocab_size
    given = np.bincount(contexts, shares, minlength=n_contexts)
    shares = (shares / np.maximum(given, 1)[contexts]).astype(np.float32)
    return Level(keys, shares, np.maximum(0, 1 - given).astype(np.float32))


def in_bytes(model: NGramModel) -> NGramModel:
    """The model with one byte for each share, as the page reads it."""
    levels = [
        completed(
            level.keys,
            np.exp(-codes(level.probs).astype(np.float64) * SHARE_STEP).astype(np.float32),
            len(level.backoff),
            model.vocab_size,
        )
        for level in model.levels
    ]
    return NGramModel(model.vocab_size, model.smoothing, levels)


def codes(shares: Floats) -> NDArray[np.uint8]:
    """Each share as the nearest power of e that a byte stands for."""
    with np.errstate(divide="ignore"):
        return np.clip(np.rint(-np.log(shares) / SHARE_STEP), 0, 255).astype(np.uint8)


def add_tables(pack: Pack, model: NGramModel, stood: list[Integers], *, exact: bool) -> None:
    """Add a model's tables to a page: for each level how many n-grams a context has, and these.

    `stood` says how often each n-gram stands in the training text, where that is known.
    """
    for n, (keys, probs, backoff) in enumerate(model.levels):
        contexts, tokens = np.divmod(keys, model.vocab_size)
        counts = np.bincount(contexts, minlength=len(backoff)).astype(np.uint32)
        pack.add_numbers(f"ngrams.{n}.counts", counts)
        pack.add_numbers(f"ngrams.{n}.tokens", tokens.astype(np.uint32))
        shares = np.asarray(probs, np.float32) if exact else codes(probs)
        pack.add_numbers(f"ngrams.{n}.shares", shares)
        # The longest n-grams are no contexts.
        if stood and n + 1 < model.order:
            pack.add_numbers(f"ngrams.{n}.occurrences", stood[n].astype(np.uint32))
