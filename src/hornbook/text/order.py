"""In which order the blocks of a store are read: pure functions, resumed without state."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hornbook.errors import ConfigError
from hornbook.language import msg

Places = NDArray[np.int64]

ROUNDS = 6
# Blocks are shuffled among so many chunks at a time, which lie anywhere in the store: 256 MiB of
# two-byte tokens. A disk or a cache then serves a window instead of the whole store.
CHUNK_TOKENS, WINDOW_CHUNKS = 1 << 21, 64
# A mixture's weights are exact to a share of this many blocks.
PERIOD = 10_000


class Permutation:
    """A permutation of the numbers below `size`, without a table.

    A Feistel network permutes the next power of four; a number that leaves the range goes through
    it again until it is back ("cycle walking"), four times on average at most.
    Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains".
    """

    def __init__(self, size: int, key: str) -> None:
        self.size = size
        self.shift = np.uint64(max(1, (max(1, size - 1).bit_length() + 1) // 2))
        self.mask = (np.uint64(1) << self.shift) - np.uint64(1)
        digest = hashlib.blake2b(key.encode(), digest_size=8 * ROUNDS).digest()
        self.keys = np.frombuffer(digest, "<u8")

    def __call__(self, numbers: Places) -> Places:
        """Where each number goes. Shapes: [N] -> [N]."""
        found = self._once(numbers.astype(np.uint64))
        while (outside := found >= self.size).any():
            found[outside] = self._once(found[outside])
        return found.astype(np.int64)

    def _once(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = numbers >> self.shift, numbers & self.mask
        for key in self.keys:
            left, right = right, left ^ (mixed(right + key) & self.mask)
        return (left << self.shift) | right


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The numbers with their bits mixed.

    Source: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators".
    """
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


permutation = lru_cache(maxsize=32)(Permutation)


@dataclass(frozen=True)
class BlockOrder:
    """The order of `blocks` blocks, each once an epoch; `chunk` consecutive ones stay near.

    Chunks are permuted, and then the blocks of every WINDOW_CHUNKS of them.
    """

    blocks: int
    chunk: int
    key: str

    def at(self, places: Places) -> Places:
        """The blocks at these places of an order without end. Shapes: [N] -> [N]."""
        epochs, inside = np.divmod(places, self.blocks)
        window_blocks = WINDOW_CHUNKS * self.chunk
        windows = inside // window_blocks
        found = np.empty_like(places)
        for epoch, window in sorted({*zip(epochs.tolist(), windows.tolist(), strict=True)}):
            chosen = (epochs == epoch) & (windows == window)
            first = window * window_blocks
            size, key = min(window_blocks, self.blocks - first), f"{self.key}/{epoch}"
            shuffled = first + permutation(size, f"{key}/{window}")(inside[chosen] - first)
            slots, rest = np.divmod(shuffled, self.chunk)
            whole = self.blocks // self.chunk  # a smaller chunk at the end stays there
            moved = permutation(max(1, whole), key)(slots.clip(max=max(0, whole - 1)))
            found[chosen] = np.where(slots < whole, moved, slots) * self.chunk + rest
        return found


class Mixture:
    """Which group each block of a training is of, by weights; groups come as evenly as they can.

    The groups of PERIOD blocks are repeated, so that a block's group, and how many of the group
    came before it, are functions of its number.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.names = tuple(weights)
        shares = np.array([*weights.values()]) / sum(weights.values())
        self.counts = np.floor(shares * PERIOD).astype(np.int64)
        for most in np.argsort(self.counts - shares * PERIOD)[: PERIOD - self.counts.sum()]:
            self.counts[most] += 1
        # At each block the group that is furthest behind its share.
        credit, pattern = np.zeros(len(shares)), np.empty(PERIOD, np.int64)
        exact = self.counts / PERIOD
        for number in range(PERIOD):
            credit += exact
            pattern[number] = credit.argmax()
            credit[pattern[number]] -= 1
        self.pattern = pattern
        # The groups' counts before each block of the period.
        came = np.cumsum(pattern[:, None] == np.arange(len(shares)), axis=0)
        self.before = np.concatenate([np.zeros((1, len(shares)), np.int64), came])
        self.counts = self.before[-1]

    def places(self, numbers: Places) -> tuple[Places, Places]:
        """The group of each block, by its place in `names`, and how many of it came before."""
        periods, inside = np.divmod(numbers, PERIOD)
        groups = self.pattern[inside]
        return groups, periods * self.counts[groups] + self.before[inside, groups]

    def drawn(self, blocks: int) -> dict[str, int]:
        """How many of the first blocks are of each group."""
        periods, inside = divmod(blocks, PERIOD)
        each = periods * self.counts + self.before[inside]
        return dict(zip(self.names, each.tolist(), strict=True))


def parse_mix(mix: str, known: Mapping[str, int]) -> dict[str, float]:
    """The weights of "web=0.7,code=0.3"; `known` has the groups, and the tokens of each.

    Raises: ConfigError for an unknown group, a weight that is none, or a group without text.
    """
    weights: dict[str, float] = {}
    listed = ", ".join(known)
    for each in mix.split(","):
        name, equals, weight = (part.strip() for part in each.partition("="))
        try:
            share = float(weight)
        except ValueError:
            share = -1.0
        if not equals or not 0 < share < float("inf") or name in weights:
            raise ConfigError(
                msg(
                    "--mix {mix}: expected groups, each once, and weights above 0, such as "
                    "{known}; got {each!r}",
                    mix=mix,
                    known=",".join(f"{group}={1 / len(known):.2g}" for group in known),
                    each=each,
                )
            )
        if not known.get(name):
            named = {"name": name, "listed": listed}
            why = msg("the group {name!r} is not in the store, which has {listed}", **named)
            if name in known:
                why = msg("the group {name!r} has no training text, which has {listed}", **named)
            raise ConfigError(msg("--mix {mix}: {why}", mix=mix, why=why))
        weights[name] = share
    return weights
