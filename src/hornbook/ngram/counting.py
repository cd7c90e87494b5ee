"""Counts of the n-grams of a token array, for every order up to a maximum.

The n-grams of one order are sorted and numbered in that order. The key of an n-gram is ``number of
its first n - 1 tokens * vocab_size + its last token``. Keys ascend with the numbers, n-grams with
the same context are adjacent, and a key fits in 64 bits for any order and vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hornbook.errors import ConfigError, DataError
from hornbook.language import msg

Ids = NDArray[np.int64]
Integers = NDArray[np.integer[Any]]


class Counts(NamedTuple):
    """The n-grams of one order: their sorted keys, and two kinds of counts."""

    keys: Ids
    occurrences: Integers
    # How many different tokens precede the n-gram; the start of the text counts as one. For the
    # highest order these are the occurrences, as Kneser-Ney needs them.
    predecessors: Integers


def count_ngrams(tokens: Integers, vocab_size: int, order: int) -> Iterator[Counts]:
    """Yield the counts of all 1-grams, 2-grams, ... up to ``order``.

    The positions of the text are sorted once, by the ``order`` tokens from there on; then the
    occurrences of every shorter n-gram are adjacent too.
    Raises: ConfigError for an order below 1, DataError for fewer tokens than ``order``.
    """
    if order < 1:
        raise ConfigError(msg("order: expected 1 or more, got {order}", order=order))
    n_tokens = len(tokens)
    if n_tokens < order:
        raise DataError(
            msg(
                "expected at least {order} tokens to count {order}-grams, got {n_tokens}",
                order=order,
                n_tokens=n_tokens,
            )
        )
    # 0 marks the end of the text, so that it sorts before any token.
    text = np.zeros(n_tokens + order, dtype=np.min_scalar_type(vocab_size))
    np.add(tokens, 1, out=text[:n_tokens], dtype=text.dtype)
    positions = _sorted_positions(text, n_tokens, vocab_size, order)
    starts = np.zeros(n_tokens, dtype=bool)  # where in ``positions`` another n-gram begins
    starts[0] = True
    contexts = np.zeros(n_tokens, dtype=positions.dtype)
    number_at = np.zeros(n_tokens + 1, dtype=positions.dtype)
    keys: Ids = np.empty(0, dtype=np.int64)
    occurrences: Integers = keys
    for n in range(order):
        last = text[n:][positions]
        starts[1:] |= last[1:] != last[:-1]
        whole = last > 0  # in each round one position is too near the end of the text
        positions, starts = positions[whole], starts[whole]
        contexts, last = contexts[whole], last[whole]
        firsts = np.flatnonzero(starts)
        if n > 0:
            # Without its first token an n-gram is one of the order before.
            predecessors = np.bincount(number_at[positions[firsts] + 1], minlength=len(keys))
            predecessors[number_at[0]] += 1
            yield Counts(keys, occurrences, predecessors)
        keys = contexts[firsts].astype(np.int64) * vocab_size + last[firsts] - 1
        occurrences = np.diff(firsts, append=len(positions))
        contexts = np.cumsum(starts, dtype=positions.dtype) - 1
        number_at[positions] = contexts
    yield Counts(keys, occurrences, occurrences)


def _sorted_positions(text: Integers, n_tokens: int, vocab_size: int, order: int) -> Integers:
    """The positions 0 ... n_tokens - 1, sorted by the ``order`` tokens from there on."""
    key = text[:n_tokens].astype(np.int64)
    n_keys = vocab_size + 1
    for n in range(1, order):
        if n_keys * (vocab_size + 1) > np.iinfo(np.int64).max:
            # Replace keys by ranks before 64 bits overflow: for 65 characters at order 11.
            distinct, key = np.unique(key, return_inverse=True)
            n_keys = len(distinct)
        key *= vocab_size + 1
        key += text[n : n + n_tokens]
        n_keys *= vocab_size + 1
    return np.argsort(key).astype(np.int32 if n_tokens < 2**31 - 1 else np.int64)


def find_ngrams(
    keys_by_order: Sequence[Ids], vocab_size: int, tokens: Integers
) -> Iterator[tuple[Ids, Ids]]:
    """Yield for n = 0, 1, ... the numbers of context and n-gram at each of tokens[n:].

    The context is the n tokens before, the n-gram context and token; -1 if it was not counted.
    """
    grams = np.zeros(len(tokens) + 1, dtype=np.int64)
    for n, keys in enumerate(keys_by_order):
        contexts = grams[:-1]
        wanted = contexts * vocab_size + tokens[n:]
        rows = np.minimum(keys.searchsorted(wanted), len(keys) - 1)
        grams = np.where((contexts >= 0) & (keys[rows] == wanted), rows, -1)
        yield contexts, grams


def bigram_counts(tokens: ArrayLike, vocab_size: int) -> Ids:
    """How often each token (row) is followed by each other (column); shape [V, V]."""
    pairs = _pairs(tokens, vocab_size)
    return np.bincount(pairs, minlength=vocab_size**2).reshape(vocab_size, vocab_size)


def best_bigram_loss(tokens: ArrayLike, vocab_size: int) -> float:
    """The lowest training loss, in nats, that any table of bigram logits can reach.

    It is the conditional entropy of the text's bigrams. Raises: DataError below two tokens.
    """
    pairs, counts = np.unique(_pairs(tokens, vocab_size), return_counts=True)
    if not len(pairs):
        raise DataError(msg("expected at least 2 tokens to count bigrams"))
    first = pairs // vocab_size
    totals = np.bincount(first, counts)[first]
    return -float((counts * np.log(counts / totals)).sum() / counts.sum())


def _pairs(tokens: ArrayLike, vocab_size: int) -> Ids:
    text = checked_tokens(tokens, vocab_size)
    return text[:-1].astype(np.int64) * vocab_size + text[1:]


def checked_tokens(tokens: ArrayLike, vocab_size: int) -> Integers:
    """The tokens in the smallest type that holds the vocabulary.

    Raises: ConfigError for the vocabulary's size, DataError for tokens that are not in it.
    """
    if not 1 <= vocab_size < 2**31:
        raise ConfigError(
            msg("vocab_size: expected 1 to 2**31 - 1, got {vocab_size}", vocab_size=vocab_size)
        )
    array = np.asarray(tokens)
    smallest = np.min_scalar_type(vocab_size - 1)
    if array.size == 0:
        return np.empty(0, dtype=smallest)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            msg(
                "expected a row of integer tokens, got {dtype} {shape}",
                dtype=array.dtype,
                shape=array.shape,
            )
        )
    if array.min() < 0 or array.max() >= vocab_size:
        low, high = array.min(), array.max()
        raise DataError(
            msg(
                "expected tokens from 0 to {last}, got {low} to {high}",
                last=vocab_size - 1,
                low=low,
                high=high,
            )
        )
    return array.astype(smallest, copy=False)
