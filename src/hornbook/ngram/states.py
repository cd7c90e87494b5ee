"""The state of an n-gram model in a text: what of the context matters, followed token by token."""

from functools import lru_cache

import numpy as np

from hornbook.ngram.model import Floats, NGramModel

# The numbers of the last 0, 1, ... order - 1 tokens as n-grams (-1: not counted); near the
# beginning of a text there are fewer.
State = tuple[int, ...]


class NGramStates:
    """Follows an n-gram model along texts; distributions are cached by state."""

    BEGINNING: State = (0,)

    def __init__(self, model: NGramModel) -> None:
        self.model = model
        # Most suffixes of a new context are in the cache already. With at most 32 MB or two entries
        # it takes order 8 on tiny Shakespeare from 19,000 to 28,000 characters a second.
        self._cached = lru_cache(maxsize=2 + 2**22 // model.vocab_size)(self._probs)

    def after(self, state: State, token: int) -> State:
        """The state after one more token."""
        shorter = enumerate(state[: self.model.order - 1])
        return (0, *[self.model.number(n, context, token) for n, context in shorter])

    def probs(self, state: State) -> Floats:
        """Distribution of the next token, [vocab_size]; cached, so it must not be written to."""
        return self._cached(state)

    def _probs(self, state: State) -> Floats:
        if not state:
            return np.full(self.model.vocab_size, 1 / self.model.vocab_size)
        return self.model.interpolate(len(state) - 1, state[-1], self._cached(state[:-1]))

    def backoff(self, state: State) -> Floats:
        """The backoff weight of each order, 1 where the context was not counted; [order]."""
        levels = self.model.levels
        weights = np.ones(len(levels))
        for n, context in enumerate(state):
            if context >= 0:
                weights[n] = levels[n].backoff[context]
        return weights
