"""N-gram language models of any order, with four kinds of smoothing.

Every smoothing has the same form: a context gives each token that followed it a probability
(``probs``), and multiplies that of the next shorter context by its backoff weight (``backoff``):

    p(token | context) = probs(context, token) + backoff(context) * p(token | shorter context)

Below the empty context is the uniform distribution, so every distribution sums to 1 over the whole
vocabulary, unseen tokens included. Add-k backs off to the uniform distribution at once.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hornbook.errors import ConfigError, DataError
from hornbook.language import msg
from hornbook.ngram.counting import Ids, Integers, checked_tokens, count_ngrams, find_ngrams

Floats = NDArray[np.float64]
Smoothing = Literal["mle", "add-k", "witten-bell", "kneser-ney"]

# Kneser-Ney's discounts for counts of 1, 2, and 3 or more, if the text is too small to estimate
# them: half of their maximum, as in kenlm.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
# A lower bound for logarithms of probabilities: "mle" can give zero.
MIN_PROB = 1e-20
# A repeated context is worth reading if it is one of at least so many possible ones: of 65 letters
# pairs are informative and single letters add noise, of 1,300 syllables single ones are
# (docs/experiments.md).
MIN_POSSIBLE_CONTEXTS = 1000


class Level(NamedTuple):
    """The n-grams of one order."""

    keys: Ids
    probs: NDArray[np.floating[Any]]  # by n-gram: the discounted probability of its last token
    backoff: NDArray[np.floating[Any]]  # by context: the weight of the shorter context

    def flaw(self, n_contexts: int, vocab_size: int) -> str:
        """What is wrong with a level from a file; empty if it is valid."""
        keys, probs, backoff = self
        if keys.ndim != 1 or keys.dtype != np.int64 or len(keys) < 1:
            return msg("keys are not a row of integers")
        if probs.shape != keys.shape or backoff.shape != (n_contexts,):
            return msg(
                "not one probability for each n-gram and one backoff weight for each context"
            )
        if keys[0] < 0 or keys[-1] >= n_contexts * vocab_size or not (keys[1:] > keys[:-1]).all():
            return msg("keys are out of order")
        if probs.dtype.kind != "f" or backoff.dtype.kind != "f" or not (probs >= 0).all():
            return msg("probabilities are negative or not floats")
        sums = backoff + np.bincount(keys // vocab_size, probs, minlength=n_contexts)
        if not ((backoff >= 0).all() and (abs(sums - 1) < 1e-3).all()):
            return msg("probabilities do not sum to 1")
        return ""


class NGramModel:
    """An n-gram model: next-token probabilities from counts. ``fit`` makes one."""

    def __init__(self, vocab_size: int, smoothing: Smoothing, levels: list[Level]) -> None:
        self.order = len(levels)
        self.vocab_size = vocab_size
        self.smoothing: Smoothing = smoothing
        self.levels = levels

    @classmethod
    def fit(
        cls,
        tokens: ArrayLike,
        vocab_size: int,
        *,
        order: int = 6,
        smoothing: Smoothing = "kneser-ney",
        add_k: float = 1.0,
        discounts: ArrayLike | None = None,
    ) -> Self:
        """Count every n-gram up to ``order`` tokens and estimate the probabilities.

        "mle" backs off to the longest context that was seen. Only "add-k" reads ``add_k``, only
        "kneser-ney" reads ``discounts``: shape [order, 3], for counts of 1, 2, and 3 or more at
        each order, shortest first. By default they are estimated from the counts of counts.
        Raises: ConfigError for a setting out of range, DataError for tokens that cannot be counted.
        Source: Chen & Goodman 1998; "kneser-ney" is their modified Kneser-Ney, interpolated.
        """
        if smoothing not in get_args(Smoothing):
            raise ConfigError(
                msg(
                    "smoothing: expected one of {known}, got {smoothing}",
                    known=get_args(Smoothing),
                    smoothing=smoothing,
                )
            )
        if not add_k > 0:
            raise ConfigError(
                msg("add_k: expected more than 0, got {add_k}; 0 is smoothing='mle'", add_k=add_k)
            )
        table = None if discounts is None else _checked_discounts(discounts, order)
        levels: list[Level] = []
        n_contexts = 1
        for level in count_ngrams(checked_tokens(tokens, vocab_size), vocab_size, order):
            # Only backing off reaches the shorter contexts, so Kneser-Ney counts there after how
            # many different tokens an n-gram occurs, not how often.
            counts = level.predecessors if smoothing == "kneser-ney" else level.occurrences
            contexts = level.keys // vocab_size
            if smoothing == "kneser-ney":
                row = estimate_discounts(counts) if table is None else table[len(levels)]
                taken = np.concatenate([[0.0], row])[np.minimum(counts, 3)]
                rest = np.bincount(contexts, taken, minlength=n_contexts)
                counts = counts - taken
            elif smoothing == "witten-bell":
                rest = np.bincount(contexts, minlength=n_contexts)
            else:
                rest = np.full(n_contexts, add_k * vocab_size if smoothing == "add-k" else 0.0)
            totals = np.bincount(contexts, counts, minlength=n_contexts) + rest
            # Nothing may follow the last n-gram of the text: then it backs off completely.
            backoff = np.divide(rest, totals, out=np.ones(n_contexts), where=totals > 0)
            levels.append(Level(level.keys, counts / totals[contexts], backoff))
            n_contexts = len(level.keys)
        return cls(vocab_size, smoothing, levels)

    def rounded(self) -> "NGramModel":
        """The same model in float32."""
        levels = [Level(keys, *(a.astype(np.float32) for a in rest)) for keys, *rest in self.levels]
        return NGramModel(self.vocab_size, self.smoothing, levels)

    @property
    def n_grams(self) -> int:
        """The number of different n-grams of all orders."""
        return sum(len(level.keys) for level in self.levels)

    def log_probs(self, tokens: ArrayLike, *, context: ArrayLike = ()) -> Floats:
        """Log-probability in nats of each token, given at most ``order - 1`` before it.

        ``context`` precedes the first token.
        Shapes: [T] -> [T]. A probability of zero (possible under "mle") is -inf.
        Raises: DataError for tokens outside the vocabulary.
        """
        before = self._recent(context)
        text = np.concatenate([before, checked_tokens(tokens, self.vocab_size)])
        p = np.full(len(text), 1 / self.vocab_size)
        for n, (contexts, grams) in enumerate(self._find(text)):
            # The index -1, not counted, takes the last entry: replace it.
            backoff = np.where(contexts < 0, 1.0, self.levels[n].backoff[contexts])
            probs = np.where(grams < 0, 0.0, self.levels[n].probs[grams])
            p[n:] = probs + backoff * self._lower(p[n:])
        with np.errstate(divide="ignore"):
            return np.log(p[len(before) :])

    def cross_entropy(self, tokens: ArrayLike, *, context: ArrayLike = ()) -> float:
        """Mean negative log-probability of the tokens, in nats a token.

        Raises: DataError for no tokens, or tokens outside the vocabulary.
        """
        scores = self.log_probs(tokens, context=context)
        if not len(scores):
            raise DataError(msg("expected at least 1 token to score, got none"))
        return -float(scores.mean())

    def probs(self, context: ArrayLike = ()) -> Floats:
        """Distribution of the token that follows ``context``; shape [vocab_size], sums to 1."""
        p = np.full(self.vocab_size, 1 / self.vocab_size)
        found = self._find(self._recent(context))
        for n, number in enumerate([0, *(grams[-1] for _, grams in found if len(grams))]):
            p = self.interpolate(n, int(number), p)
        return p

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The model as flat arrays by name, which can be saved and memory-mapped."""
        named: dict[str, NDArray[Any]] = {
            "vocab_size": np.array([self.vocab_size]),
            "smoothing": np.array(list(self.smoothing.encode()), dtype=np.uint8),
        }
        for n, level in enumerate(self.levels, start=1):
            named |= {f"{name}.{n}": array for name, array in zip(_FILE_NAMES, level, strict=True)}
        return named

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], *, n_models: int = 1) -> Self:
        """The model of which these are the ``arrays``, or so many of them ``side_by_side``.

        Raises: DataError if arrays are missing or are not valid.
        """
        order = sum(name.startswith("keys.") for name in arrays)
        try:
            files = ([f"{name}.{n}" for name in _FILE_NAMES] for n in range(1, order + 1))
            levels = [Level(*(arrays[name] for name in names)) for names in files]
            smoothing = _SMOOTHING_BY_NAME[bytes(arrays["smoothing"].astype(np.uint8)).decode()]
            vocab_size = int(arrays["vocab_size"][0])
        except (KeyError, IndexError, ValueError) as error:
            raise DataError(
                msg("these are not an n-gram model's arrays: no {error}", error=error)
            ) from None
        if not (levels and 1 <= vocab_size < 2**31):
            raise DataError(
                msg("these are not an n-gram model's arrays: no n-grams or no vocabulary")
            )
        n_contexts = n_models
        for n, level in enumerate(levels, start=1):
            if flaw := level.flaw(n_contexts, vocab_size):
                raise DataError(
                    msg(
                        "these are not an n-gram model's arrays: {flaw} at order {n}",
                        flaw=flaw,
                        n=n,
                    )
                )
            n_contexts = len(level.keys)
        return cls(vocab_size, smoothing, levels)

    def _find(self, tokens: Integers) -> Iterator[tuple[Ids, Ids]]:
        return find_ngrams([level.keys for level in self.levels], self.vocab_size, tokens)

    def _recent(self, context: ArrayLike) -> Integers:
        tokens = checked_tokens(context, self.vocab_size)
        return tokens[max(0, len(tokens) - (self.order - 1)) :]

    def number(self, n: int, context: int, token: int) -> int:
        """The number of context + token among the (n + 1)-grams; -1 if it was not counted."""
        if context < 0:
            return -1
        keys, key = self.levels[n].keys, context * self.vocab_size + token
        at = int(keys.searchsorted(key))
        return at if at < len(keys) and keys[at] == key else -1

    def interpolate(self, n: int, context: int, shorter: Floats) -> Floats:
        """The distribution after a context of n tokens, from that after its last n - 1."""
        lower = self._lower(shorter)
        if context < 0:
            return lower
        (keys, probs, backoff), first = self.levels[n], context * self.vocab_size
        start, stop = keys.searchsorted(first), keys.searchsorted(first + self.vocab_size)
        p = backoff[context] * lower
        p[keys[start:stop] - first] += probs[start:stop]
        return p

    def _lower(self, p: Floats) -> Floats:
        """The distribution to which a context backs off."""
        return np.full_like(p, 1 / self.vocab_size) if self.smoothing == "add-k" else p


def side_by_side(models: Sequence[NGramModel]) -> NGramModel:
    """Models of one vocabulary, order and smoothing in one: model i has the empty context i.

    The models are emptied on the way, so that memory does not double. The result is float32.
    """
    vocab_size, smoothing = models[0].vocab_size, models[0].smoothing
    levels = []
    for _ in range(models[0].order):
        parts = [model.levels.pop(0) for model in models]
        offsets = np.cumsum([0, *(len(part.backoff) for part in parts[:-1])])
        keys = [part.keys + n * vocab_size for part, n in zip(parts, offsets, strict=True)]
        probs = np.concatenate([part.probs for part in parts], dtype=np.float32)
        backoff = np.concatenate([part.backoff for part in parts], dtype=np.float32)
        levels.append(Level(np.concatenate(keys), probs, backoff))
    return NGramModel(vocab_size, smoothing, levels)


def shortest_useful_match(vocab_size: int) -> int:
    """How many tokens of context must match before what follows is informative: 1 to 10."""
    return max(1, math.ceil(math.log(MIN_POSSIBLE_CONTEXTS, max(2, vocab_size))))


_SMOOTHING_BY_NAME: dict[str, Smoothing] = {name: name for name in get_args(Smoothing)}
# The fields of a level in a run's files.
_FILE_NAMES = ("keys", "kept", "back")


def estimate_discounts(counts: Integers) -> Floats:
    """Modified Kneser-Ney's three discounts from the counts of counts; fallback if degenerate.

    Source: Chen & Goodman 1998, modified Kneser-Ney.
    """
    n1, n2, n3, n4 = (int((counts == i).sum()) for i in (1, 2, 3, 4))
    if n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        discounts = np.array([1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if (discounts > 0).all():
            return discounts
    return np.array(FALLBACK_DISCOUNTS)


def _checked_discounts(discounts: ArrayLike, order: int) -> Floats:
    table = np.asarray(discounts, dtype=np.float64)
    if table.shape != (order, 3):
        raise ConfigError(
            msg(
                "discounts: expected shape ({order}, 3), got {shape}",
                order=order,
                shape=table.shape,
            )
        )
    if not ((table >= 0) & (table <= [1, 2, 3])).all():
        raise ConfigError(
            msg("discounts: expected each from 0 to the count it is taken from (1, 2, 3)")
        )
    return table
