"""How to count a text: what the settings leave open is chosen on text held out from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hornbook.errors import ConfigError, DataError
from hornbook.ngram.counting import NGramModel, checked_tokens, count_ngrams, walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from hornbook.ngram.counting import Floats, Ids, Integers, Smoothing

# Thirty discounts need no more text than this to be tuned on, and it bounds tune()'s memory.
MOST_HELD_OUT = 200_000
LONGEST = 10
# Tuned discounts make long orders harmless, so the longest come first; where one is so much worse
# than the best, none below it is tried.
CLEARLY_WORSE_NATS = 0.01
# 20 rounds come within 0.0002 nats of 60, and so do 6 that go on from the next longer order's.
START, FIRST_ROUNDS, NEXT_ROUNDS = 0.6, 20, 6


@dataclass(frozen=True)
class Recipe:
    """All that `NGramModel.fit` asks for besides the text."""

    order: int
    smoothing: Smoothing = "kneser-ney"
    add_k: float = 1.0
    discounts: Floats | None = None

    def count(self, tokens: ArrayLike, vocab_size: int) -> NGramModel:
        """Count a text this way. Raises: ConfigError, DataError as `NGramModel.fit`."""
        return NGramModel.fit(
            tokens,
            vocab_size,
            order=self.order,
            smoothing=self.smoothing,
            add_k=self.add_k,
            discounts=self.discounts,
        )


def choose(
    tokens: ArrayLike,
    vocab_size: int,
    *,
    order: int = 0,
    smoothing: Smoothing = "kneser-ney",
    add_k: float = 1.0,
) -> Recipe:
    """The recipe that predicts the last tenth of the text best, counted on the rest.

    An order of 0 is chosen, from 1 to LONGEST; any other stays. Kneser-Ney's discounts are always
    tuned. A text too short to hold anything out is counted in pairs, or by the order given.
    Raises: ConfigError, DataError as `NGramModel.fit`.
    """
    orders = [order] if order else list(range(1, LONGEST + 1))
    if smoothing == "kneser-ney":
        try:
            tuned = tune(tokens, vocab_size, min_order=orders[0], max_order=orders[-1])
        except DataError:
            return Recipe(order or 2)
        return Recipe(tuned.order, discounts=tuned.discounts)
    recipes = [Recipe(each, smoothing, add_k) for each in orders]
    text = checked_tokens(tokens, vocab_size)
    cut = len(text) - held_out_length(len(text), 0.1)
    if len(recipes) == 1 or cut < LONGEST or cut == len(text):
        return recipes[min(1, len(recipes) - 1)]

    def loss_nats(recipe: Recipe) -> float:
        counted = recipe.count(text[:cut], vocab_size)
        return counted.cross_entropy(text[cut:], context=text[:cut])

    return min(recipes, key=loss_nats)


def held_out_length(n_tokens: int, share: float) -> int:
    """How many of a text's last tokens are held out to tune on."""
    return min(int(n_tokens * share), MOST_HELD_OUT)


class Tuned(NamedTuple):
    """The order that predicts held-out text best, its discounts, and the losses of those tried."""

    order: int
    discounts: Floats  # [order, 3], as NGramModel.fit takes them
    losses_nats: dict[int, float]


def tune(
    tokens: ArrayLike,
    vocab_size: int,
    *,
    min_order: int = 1,
    max_order: int = LONGEST,
    held_out: float = 0.1,
) -> Tuned:
    """Choose Kneser-Ney's order and discounts on the last part of the text, counting the rest.

    From the longest order down, as long as shorter ones are not clearly worse.

    Fit the model on the whole text afterwards. ``held_out`` is a share of the text; at most
    MOST_HELD_OUT tokens are used. On tiny Shakespeare this takes the validation loss from 1.5165
    nats (estimated discounts, order 7) to 1.4906 (order 10), and makes long orders harmless.
    Raises: ConfigError for a share outside (0, 1), DataError for a text too short.
    """
    text = checked_tokens(tokens, vocab_size)
    if not 0 < held_out < 1:
        raise ConfigError(f"held_out: expected a share between 0 and 1, got {held_out}")
    n_held_out = held_out_length(len(text), held_out)
    if n_held_out < max_order:
        raise DataError(f"{len(text)} tokens leave only {n_held_out} to tune on; text is too short")
    counted, unseen = text[:-n_held_out], text[-n_held_out:]
    levels = list(count_ngrams(counted, vocab_size, max_order))
    places = walk([level.keys for level in levels], vocab_size, unseen)
    found = [
        (level.keys // vocab_size, level, contexts, grams)
        for level, (contexts, grams) in zip(levels, places, strict=True)
    ]
    lower = [
        _Evidence.gather(parents, level.predecessors, contexts, grams)
        for parents, level, contexts, grams in found
    ]
    fractions = np.full((max_order, 3), START)
    best, best_fractions = max_order, fractions
    losses: dict[int, float] = {}
    for order in range(max_order, min_order - 1, -1):
        parents, level, contexts, grams = found[order - 1]
        top = _Evidence.gather(parents, level.occurrences, contexts, grams)
        fractions, losses[order] = _tune_discounts(
            [*lower[: order - 1], top],
            fractions[:order],
            vocab_size,
            rounds=FIRST_ROUNDS if order == max_order else NEXT_ROUNDS,
        )
        if losses[order] <= losses[best]:
            best, best_fractions = order, fractions
        elif losses[order] > losses[best] + CLEARLY_WORSE_NATS:
            break
    return Tuned(best, best_fractions * [1, 2, 3], losses)


class _Evidence(NamedTuple):
    """What one order says of each held-out token, in shares of its context's total count.

    A class is a count of 1, 2, or 3 and more. Classes put i of each count (1, 2, 3) at stake, of
    which a fraction is taken as discount; what lies above 3 is safe.
    """

    safe: Floats  # [T], of the token
    own: Floats  # [3, T], at stake, of the token
    all: Floats  # [3, T], at stake, of everything that followed the context
    unseen: Floats  # [T], 1 where the context was never followed by anything

    @classmethod
    def gather(cls, parents: Ids, counts: Integers, contexts: Ids, grams: Ids) -> _Evidence:
        n_contexts = int(max(parents.max(), contexts.max())) + 1
        classes = np.minimum(counts, 3)
        total = np.bincount(parents, counts, minlength=n_contexts)[contexts]
        total[contexts < 0] = 0
        share = np.divide(1.0, total, out=np.zeros(len(contexts)), where=total > 0)
        count = np.where(grams < 0, 0, counts[grams])
        own, everything = np.empty((3, len(contexts))), np.empty((3, len(contexts)))
        for i in range(3):
            followers = np.bincount(parents[classes == i + 1], minlength=n_contexts)[contexts]
            everything[i] = (i + 1) * followers * share
            own[i] = (i + 1) * (np.minimum(count, 3) == i + 1) * share
        unseen = np.asarray(total == 0, dtype=np.float64)
        return cls(np.maximum(count - 3, 0) * share, own, everything, unseen)


def _tune_discounts(
    levels: Sequence[_Evidence], fractions: Floats, vocab_size: int, *, rounds: int
) -> tuple[Floats, float]:
    """The shares [order, 3] of counts to discount that make the held-out tokens likeliest.

    Also the loss in nats. By expectation maximisation, from `fractions` on. A count at stake is a
    coin: keep it, or give it back to the shorter context. Each round weighs how much of the
    probability of the held-out text came by either way, and moves each fraction to that share.
    """
    fractions = fractions.copy()
    n_tokens = len(levels[0].safe)
    loss_nats = np.inf
    for _ in range(rounds):
        p = [np.full(n_tokens, 1 / vocab_size)]
        back: list[Floats] = []
        for n, (level, given) in enumerate(zip(levels, fractions, strict=True)):
            back.append(given @ level.all + level.unseen)
            kept = level.safe + (1 - given) @ level.own
            p.append(np.concatenate([p[n][:n], kept + back[n] * p[n][n:]]))
        loss_nats = -float(np.log(p[-1]).mean())
        reached = 1 / p[-1]
        for n in reversed(range(len(levels))):
            level, given = levels[n], fractions[n]
            gave = given * (level.all @ (reached[n:] * p[n][n:]))
            kept = (1 - given) * (level.own @ reached[n:])
            # One imagined coin keeps a fraction off 0 and 1, where a text says little or nothing.
            fractions[n] = (gave + START) / (gave + kept + 1)
            reached[n:] *= back[n]
    return fractions, loss_nats
