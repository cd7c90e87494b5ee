"""Language models by counting: n-grams of any order over an array of tokens.

Every smoothing here has one form. A context hands each token it has seen a share of its
probability (``kept``) and leaves the rest (``back``) to the next shorter context:

    p(token | context) = kept(context, token) + back(context) * p(token | shorter context)

and below the empty context lies the uniform distribution, so every distribution sums to one over
the whole vocabulary, unseen tokens included. (Add-k alone skips the shorter contexts: its rest goes
to the uniform distribution at once.)

n-grams are numbered within their order, sorted. An n-gram's key is ``number of its first n - 1
tokens * vocab_size + its last token``: keys ascend with the numbers, the n-grams that continue one
context stand side by side, and a key fits in 64 bits whatever the order and the vocabulary.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from hornbook.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats: TypeAlias = NDArray[np.float64]
    Shares: TypeAlias = NDArray[np.floating[Any]]
    Ids: TypeAlias = NDArray[np.int64]
    Integers: TypeAlias = NDArray[np.integer[Any]]
    # A place in a text: the numbers of its last 0, 1, ... order - 1 tokens (-1: never seen); fewer
    # near the text's beginning.
    Chain: TypeAlias = tuple[int, ...]

Smoothing = Literal["mle", "add-k", "witten-bell", "kneser-ney"]

# Kneser-Ney's discounts for counts of 1, 2, and 3 or more, where the text is too small to estimate
# them from: half of what they can be at most (kenlm's choice too).
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
# Below any share, for who needs the logarithm of one: "mle" can say zero.
LEAST = 1e-20
# Of 65 letters pairs tell what follows where single ones only add noise, of 1,300 syllables single
# ones do: a run tells something where it is one of at least so many (docs/experiments.md).
TELLING_RUNS = 1000


class Counts(NamedTuple):
    """The n-grams of one order: their sorted keys, and two ways to count them."""

    keys: Ids
    occurrences: Integers
    # How many different tokens come before, the text's start being one. Before the longest n-grams
    # nothing was counted, so there these are the occurrences, which is what Kneser-Ney asks for.
    predecessors: Integers


class Level(NamedTuple):
    """One order's part of a model."""

    keys: Ids
    kept: Shares  # by n-gram: the share its context hands to its last token
    back: Shares  # by context: the share left to shorter contexts

    def flaw(self, n_contexts: int, vocab_size: int) -> str:
        """What is wrong with a level read from a file; empty for a sound one."""
        keys, kept, back = self
        if keys.ndim != 1 or keys.dtype != np.int64 or len(keys) < 1:
            return "n-grams that are no numbers"
        if kept.shape != keys.shape or back.shape != (n_contexts,):
            return "shares that are not one for each n-gram and context"
        if keys[0] < 0 or keys[-1] >= n_contexts * vocab_size or not (keys[1:] > keys[:-1]).all():
            return "n-grams out of order"
        if kept.dtype.kind != "f" or back.dtype.kind != "f" or not (kept >= 0).all():
            return "shares that are no probabilities"
        sums = back + np.bincount(keys // vocab_size, kept, minlength=n_contexts)
        if not ((back >= 0).all() and (abs(sums - 1) < 1e-3).all()):
            return "shares that do not add up to 1"
        return ""


class NGramModel:
    """An n-gram model: next-token probabilities from counts. Make one with ``fit``."""

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
    ) -> NGramModel:
        """Count every n-gram up to ``order`` tokens and share out the probability.

        ``mle`` falls back to the longest context that was seen. ``add_k`` is read by "add-k" alone;
        ``discounts`` by "kneser-ney" alone: shape [order, 3], for counts of 1, 2, and 3 or more at
        each order, shortest first; left out, they are estimated from the counts of counts.
        Raises: ConfigError for a setting out of range, DataError for tokens that cannot be counted.
        Source: Chen & Goodman 1998; "kneser-ney" is their modified Kneser-Ney, interpolated.
        """
        if smoothing not in get_args(Smoothing):
            raise ConfigError(f"smoothing: expected one of {get_args(Smoothing)}, got {smoothing}")
        if not add_k > 0:
            raise ConfigError(f"add_k: expected more than 0, got {add_k}; 0 is smoothing='mle'")
        table = None if discounts is None else _checked_discounts(discounts, order)
        levels: list[Level] = []
        n_contexts = 1
        for level in count_ngrams(checked_tokens(tokens, vocab_size), vocab_size, order):
            # Shorter contexts are asked only what a longer one could not answer, so Kneser-Ney
            # counts for them in how many places a token is new, not how often it occurs.
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
            # The text's last n-gram may go on nowhere: it leaves everything to shorter contexts.
            back = np.divide(rest, totals, out=np.ones(n_contexts), where=totals > 0)
            levels.append(Level(level.keys, counts / totals[contexts], back))
            n_contexts = len(level.keys)
        return cls(vocab_size, smoothing, levels)

    def rounded(self) -> NGramModel:
        """The same with its shares in float32."""
        levels = [
            Level(keys, kept.astype(np.float32), back.astype(np.float32))
            for keys, kept, back in self.levels
        ]
        return NGramModel(self.vocab_size, self.smoothing, levels)

    @property
    def n_grams(self) -> int:
        """How many different n-grams of any order were counted."""
        return sum(len(level.keys) for level in self.levels)

    def log_probs(self, tokens: ArrayLike, *, context: ArrayLike = ()) -> Floats:
        """Log-probability in nats of each token, given at most ``order - 1`` before it.

        ``context`` stands before the first token; without it the first tokens know less.
        Shapes: [T] -> [T]. A probability of zero (possible under "mle") is -inf.
        Raises: DataError for tokens outside the vocabulary.
        """
        before = self._recent(context)
        text = np.concatenate([before, checked_tokens(tokens, self.vocab_size)])
        p = np.full(len(text), 1 / self.vocab_size)
        for n, (contexts, grams) in enumerate(self._walk(text)):
            # -1, never seen, picks the last entry: the wrong share, so put the right one.
            back = np.where(contexts < 0, 1.0, self.levels[n].back[contexts])
            kept = np.where(grams < 0, 0.0, self.levels[n].kept[grams])
            p[n:] = kept + back * self._below(p[n:])
        with np.errstate(divide="ignore"):
            return np.log(p[len(before) :])

    def cross_entropy(self, tokens: ArrayLike, *, context: ArrayLike = ()) -> float:
        """Mean negative log-probability of the tokens, in nats a token.

        Raises: DataError for no tokens, or tokens outside the vocabulary.
        """
        scores = self.log_probs(tokens, context=context)
        if not len(scores):
            raise DataError("expected at least 1 token to score, got none")
        return -float(scores.mean())

    def probs(self, context: ArrayLike = ()) -> Floats:
        """Distribution of the token that follows ``context``; shape [vocab_size], sums to 1."""
        p = np.full(self.vocab_size, 1 / self.vocab_size)
        for n, number in enumerate(self._chain(context)):
            p = self._extend(n, number, p)
        return p

    def generate(
        self, length: int, *, context: ArrayLike = (), temperature: float = 1.0, seed: int = 0
    ) -> Ids:
        """Draw ``length`` tokens one after another, following ``context``.

        Below 1 the temperature favours likely tokens; 0 always takes the likeliest.
        Raises: ConfigError if the temperature is negative, DataError for an unknown token.
        """
        if not temperature >= 0:
            raise ConfigError(f"temperature: expected 0 or more, got {temperature}")
        chains = Chains(self)
        chain = self._chain(context)
        drawn = np.empty(length, dtype=np.int64)
        for i, ticket in enumerate(np.random.default_rng(seed).random(length)):
            p = chains.probs(chain)
            if temperature == 0:
                token = int(p.argmax())
            else:
                sums = (p if temperature == 1 else (p / p.max()) ** (1 / temperature)).cumsum()
                token = int((sums / sums[-1]).searchsorted(ticket, side="right"))
            drawn[i] = token
            chain = chains.after(chain, token)
        return drawn

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything the model is, as flat arrays by name, fit to be saved and memory-mapped."""
        named: dict[str, NDArray[Any]] = {
            "vocab_size": np.array([self.vocab_size]),
            "smoothing": np.array(list(self.smoothing.encode()), dtype=np.uint8),
        }
        for n, level in enumerate(self.levels, start=1):
            named |= {f"{field}.{n}": array for field, array in level._asdict().items()}
        return named

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> NGramModel:
        """The model that ``arrays`` came from.

        Raises: DataError if any are missing, or are not what an n-gram model can be.
        """
        order = sum(name.startswith("keys.") for name in arrays)
        try:
            levels = [
                Level(*(arrays[f"{field}.{n}"] for field in Level._fields))
                for n in range(1, order + 1)
            ]
            smoothing = _SMOOTHING_BY_NAME[bytes(arrays["smoothing"].astype(np.uint8)).decode()]
            vocab_size = int(arrays["vocab_size"][0])
        except (KeyError, IndexError, ValueError) as missing:
            raise DataError(f"these are not an n-gram model's arrays: no {missing}") from None
        if not (levels and 1 <= vocab_size < 2**31):
            raise DataError("these are not an n-gram model's arrays: no n-grams or no vocabulary")
        n_contexts = 1
        for n, level in enumerate(levels, start=1):
            flaw = level.flaw(n_contexts, vocab_size)
            if flaw:
                raise DataError(f"these are not an n-gram model's arrays: {flaw} at order {n}")
            n_contexts = len(level.keys)
        return cls(vocab_size, smoothing, levels)

    def _walk(self, tokens: Integers) -> Iterator[tuple[Ids, Ids]]:
        return walk([level.keys for level in self.levels], self.vocab_size, tokens)

    def _recent(self, context: ArrayLike) -> Integers:
        tokens = checked_tokens(context, self.vocab_size)
        return tokens[max(0, len(tokens) - (self.order - 1)) :]

    def _chain(self, context: ArrayLike) -> Chain:
        walk = self._walk(self._recent(context))
        return (0, *(int(grams[-1]) for _, grams in walk if len(grams)))

    def _number(self, n: int, context: int, token: int) -> int:
        """The number of context + token among the (n + 1)-grams (-1: never seen)."""
        if context < 0:
            return -1
        keys, key = self.levels[n].keys, context * self.vocab_size + token
        at = int(keys.searchsorted(key))
        return at if at < len(keys) and keys[at] == key else -1

    def _extend(self, n: int, context: int, shorter: Floats) -> Floats:
        """The distribution after a context of n tokens, from that after its last n - 1."""
        below = self._below(shorter)
        if context < 0:
            return below
        (keys, kept, back), first = self.levels[n], context * self.vocab_size
        start, stop = keys.searchsorted(first), keys.searchsorted(first + self.vocab_size)
        p = back[context] * below
        p[keys[start:stop] - first] += kept[start:stop]
        return p

    def _below(self, p: Floats) -> Floats:
        """What a context leaves its rest to."""
        return np.full_like(p, 1 / self.vocab_size) if self.smoothing == "add-k" else p


def side_by_side(models: Sequence[NGramModel]) -> NGramModel:
    """Models of one vocabulary, order and smoothing in one: its chains begin at a model's number.

    The models are taken apart on the way, so that little is held twice. Shares are in float32.
    """
    vocab_size, smoothing = models[0].vocab_size, models[0].smoothing
    levels = []
    for _ in range(models[0].order):
        parts = [model.levels.pop(0) for model in models]
        first = np.cumsum([0, *(len(part.back) for part in parts[:-1])])
        keys = np.concatenate(
            [part.keys + n * vocab_size for part, n in zip(parts, first, strict=True)]
        )
        kept, back = (
            np.concatenate([getattr(part, name) for part in parts], dtype=np.float32)
            for name in ("kept", "back")
        )
        levels.append(Level(keys, kept, back))
    return NGramModel(vocab_size, smoothing, levels)


def shortest_telling_run(vocab_size: int) -> int:
    """How many tokens must come again for their followers to be worth counting: 1 to 10."""
    return max(1, math.ceil(math.log(TELLING_RUNS, max(2, vocab_size))))


class Chains:
    """An n-gram model followed along texts, token by token, from chain to chain."""

    BEGINNING: Chain = (0,)

    def __init__(self, model: NGramModel) -> None:
        self.model = model
        # Most of a new context's suffixes have been met before: the cache (of at most 32 MB or two
        # entries) takes order 8 on tiny Shakespeare from 19,000 to 28,000 characters a second.
        self._cached = lru_cache(maxsize=2 + 2**22 // model.vocab_size)(self._probs)

    def after(self, chain: Chain, token: int) -> Chain:
        """Where one token more leads."""
        shorter = enumerate(chain[: self.model.order - 1])
        return (0, *[self.model._number(n, number, token) for n, number in shorter])

    def probs(self, chain: Chain) -> Floats:
        """Distribution of the next token, [vocab_size]: not to be written to, it is remembered."""
        return self._cached(chain)

    def _probs(self, chain: Chain) -> Floats:
        if not chain:
            return np.full(self.model.vocab_size, 1 / self.model.vocab_size)
        return self.model._extend(len(chain) - 1, chain[-1], self._cached(chain[:-1]))

    def back(self, chain: Chain) -> Floats:
        """The share left to shorter contexts, by order: 1 where nothing was seen; [order]."""
        levels = self.model.levels
        left = np.ones(len(levels))
        for n, number in enumerate(chain):
            if number >= 0:
                left[n] = levels[n].back[number]
        return left


_SMOOTHING_BY_NAME: dict[str, Smoothing] = {name: name for name in get_args(Smoothing)}


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


def bigram_counts(tokens: ArrayLike, vocab_size: int) -> Ids:
    """How often each token (row) is followed by each other (column); shape [V, V]."""
    pairs = _pairs(tokens, vocab_size)
    return np.bincount(pairs, minlength=vocab_size**2).reshape(vocab_size, vocab_size)


def best_bigram_loss(tokens: ArrayLike, vocab_size: int) -> float:
    """The least training loss, in nats, that any table of bigram logits can reach.

    It is the conditional entropy of the text's own bigrams. Raises: DataError below two tokens.
    """
    pairs, counts = np.unique(_pairs(tokens, vocab_size), return_counts=True)
    if not len(pairs):
        raise DataError("expected at least 2 tokens to count bigrams")
    first = pairs // vocab_size
    totals = np.bincount(first, counts)[first]
    return -float((counts * np.log(counts / totals)).sum() / counts.sum())


def _pairs(tokens: ArrayLike, vocab_size: int) -> Ids:
    text = checked_tokens(tokens, vocab_size)
    return text[:-1].astype(np.int64) * vocab_size + text[1:]


def count_ngrams(tokens: Integers, vocab_size: int, order: int) -> Iterator[Counts]:
    """Yield the counts of all 1-grams, 2-grams, ... up to ``order``.

    The places of the text are sorted once, by the ``order`` tokens that start there; the
    occurrences of any shorter n-gram then stand side by side too.
    """
    if order < 1:
        raise ConfigError(f"order: expected 1 or more, got {order}")
    n_tokens = len(tokens)
    if n_tokens < order:
        raise DataError(f"expected at least {order} tokens to count {order}-grams, got {n_tokens}")
    # 0 marks the end of the text, so that it sorts before any token.
    text = np.zeros(n_tokens + order, dtype=np.min_scalar_type(vocab_size))
    np.add(tokens, 1, out=text[:n_tokens], dtype=text.dtype)
    places = _sorted_places(text, n_tokens, vocab_size, order)
    starts = np.zeros(n_tokens, dtype=bool)  # where in ``places`` another n-gram begins
    starts[0] = True
    parents = np.zeros(n_tokens, dtype=places.dtype)
    number_at = np.zeros(n_tokens + 1, dtype=places.dtype)
    keys: Ids = np.empty(0, dtype=np.int64)
    occurrences: Integers = keys
    for n in range(order):
        last = text[n:][places]
        starts[1:] |= last[1:] != last[:-1]
        whole = last > 0  # one place a round is too near the end of the text
        places, starts, parents, last = places[whole], starts[whole], parents[whole], last[whole]
        firsts = np.flatnonzero(starts)
        if n > 0:
            # Without its first token an n-gram is one of the order before.
            predecessors = np.bincount(number_at[places[firsts] + 1], minlength=len(keys))
            predecessors[number_at[0]] += 1
            yield Counts(keys, occurrences, predecessors)
        keys = parents[firsts].astype(np.int64) * vocab_size + last[firsts] - 1
        occurrences = np.diff(firsts, append=len(places))
        parents = np.cumsum(starts, dtype=places.dtype) - 1
        number_at[places] = parents
    yield Counts(keys, occurrences, occurrences)


def _sorted_places(text: Integers, n_tokens: int, vocab_size: int, order: int) -> Integers:
    """The places 0 ... n_tokens - 1, sorted by the ``order`` tokens from there on."""
    key = text[:n_tokens].astype(np.int64)
    n_keys = vocab_size + 1
    for n in range(1, order):
        if n_keys * (vocab_size + 1) > np.iinfo(np.int64).max:
            # 64 bits are full: go on from the rank instead. 65 characters get here at order 11.
            distinct, key = np.unique(key, return_inverse=True)
            n_keys = len(distinct)
        key *= vocab_size + 1
        key += text[n : n + n_tokens]
        n_keys *= vocab_size + 1
    return np.argsort(key).astype(np.int32 if n_tokens < 2**31 - 1 else np.int64)


def walk(
    keys_by_order: Sequence[Ids], vocab_size: int, tokens: Integers
) -> Iterator[tuple[Ids, Ids]]:
    """Yield for n = 0, 1, ... the numbers of context and n-gram at each of tokens[n:].

    The context is the n tokens before, the n-gram context and token together; -1 if never seen.
    """
    grams = np.zeros(len(tokens) + 1, dtype=np.int64)
    for n, keys in enumerate(keys_by_order):
        contexts = grams[:-1]
        wanted = contexts * vocab_size + tokens[n:]
        places = np.minimum(keys.searchsorted(wanted), len(keys) - 1)
        grams = np.where((contexts >= 0) & (keys[places] == wanted), places, -1)
        yield contexts, grams


def checked_tokens(tokens: ArrayLike, vocab_size: int) -> Integers:
    """The tokens in the smallest type that holds the vocabulary, or an error that says why not."""
    if not 1 <= vocab_size < 2**31:
        raise ConfigError(f"vocab_size: expected 1 to 2**31 - 1, got {vocab_size}")
    array = np.asarray(tokens)
    smallest = np.min_scalar_type(vocab_size - 1)
    if array.size == 0:
        return np.empty(0, dtype=smallest)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"expected a row of integer tokens, got {array.dtype} {array.shape}")
    if array.min() < 0 or array.max() >= vocab_size:
        low, high = array.min(), array.max()
        raise DataError(f"expected tokens from 0 to {vocab_size - 1}, got {low} to {high}")
    return array.astype(smallest, copy=False)


def _checked_discounts(discounts: ArrayLike, order: int) -> Floats:
    table = np.asarray(discounts, dtype=np.float64)
    if table.shape != (order, 3):
        raise ConfigError(f"discounts: expected shape ({order}, 3), got {table.shape}")
    if not ((table >= 0) & (table <= [1, 2, 3])).all():
        raise ConfigError("discounts: expected each from 0 to the count it is taken from (1, 2, 3)")
    return table
