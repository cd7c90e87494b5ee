"""A vocabulary as a binary code tree: each token a path of decisions, similar tokens side by side.

Shapes in names: V vocabulary, N = V - 1 nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Ints: TypeAlias = NDArray[np.int32]

# A bucket holds a subtree of so many levels.
LEVELS = 3
# Levels of a tree, as in mixer.c.
DEEPEST = 50
# The rarer of a node's two ways has this share of its tokens at least, where that is possible.
LEAST_SHARE = 0.3


@dataclass(frozen=True)
class CodeTree:
    """A binary tree, nodes in breadth-first order: a node comes after its parent.

    `child`, [2,N], has the node or, for a token, ~token that bit 0 and bit 1 lead to. The tree is
    cut into subtrees of three levels, buckets; `slot` is a node's place in its bucket, 0 its root.
    Token t's path is `path[first[t] : first[t + 1]]`, each entry 2 x node + bit.
    """

    child: Ints
    bucket: Ints
    slot: Ints
    parent: Ints
    depth: Ints
    first: Ints
    path: Ints

    @classmethod
    def of_tokens(cls, counts_V: NDArray[Any], spelled: Sequence[bytes]) -> CodeTree:
        """The tree of tokens that occur so often and are spelled so.

        Letters beside letters, capitals beside capitals: what is learned at a node holds for all
        tokens below it. Of Huffman's tree, the shortest one, the losses are 1 to 3 % higher.
        """
        return cls.of_children(children(counts_V, spelled))

    @classmethod
    def of_children(cls, child_2N: Ints) -> CodeTree:
        """The tree with these children.

        Raises: ValueError where they are no tree in breadth-first order.
        """
        N = child_2N.shape[1]
        bucket_N, slot_N, parent_N, depth_N = (np.zeros(N, np.int32) for _ in range(4))
        parent_N[:1] = -1
        reached = np.zeros(N + 1, bool)
        seen = np.zeros(N + 1, bool)
        seen[0] = True
        paths: list[list[int]] = [[] for _ in range(N + 1)]
        prefix: list[list[int]] = [[] for _ in range(N)]
        n_buckets = 0
        for node in range(N):
            if not seen[node]:
                raise ValueError("a node of the code tree has no parent before it")
            depth_N[node] = len(prefix[node])
            if depth_N[node] % LEVELS == 0:
                bucket_N[node], n_buckets = n_buckets, n_buckets + 1
            else:
                above = parent_N[node]
                bit = prefix[node][-1] & 1
                bucket_N[node], slot_N[node] = bucket_N[above], 2 * slot_N[above] + 1 + bit
            for bit, child in enumerate(child_2N[:, node].tolist()):
                way = [*prefix[node], 2 * node + bit]
                if child > node and child < N and not seen[child]:
                    seen[child], parent_N[child], prefix[child] = True, node, way
                elif -N - 1 <= child < 0 and not reached[~child]:
                    reached[~child], paths[~child] = True, way
                else:
                    raise ValueError("the code tree does not lead to each token once")
        first_V1 = np.append(0, np.cumsum([len(each) for each in paths])).astype(np.int32)
        path = np.array([each for way in paths for each in way], np.int32)
        return cls(child_2N, bucket_N, slot_N, parent_N, depth_N, first_V1, path)

    @property
    def n_buckets(self) -> int:
        """How many buckets the tree is cut into."""
        return int(self.bucket.max(initial=0)) + 1


def children(counts_V: NDArray[Any], spelled: Sequence[bytes]) -> Ints:
    """The two children of each node, [2,N], of a tree over the tokens in the order of their bytes.

    A node parts its tokens where they differ most, at the earliest bit, as long as the smaller part
    has LEAST_SHARE of their count; where that is impossible, into parts as equal as they can be.
    """
    V = len(counts_V)
    order = sorted(range(V), key=lambda token: (spelled[token], token))
    # A half more: a token that never occurs has a path too.
    total_V1 = np.append(0, np.cumsum([2 * int(counts_V[token]) + 1 for token in order]))
    same = np.array([common_bits(spelled[a], spelled[b]) for a, b in pairwise(order)], np.int64)
    pairs: list[list[int]] = []
    level = [(0, V)] if V > 1 else []
    depth = n_nodes = 0
    while level:
        n_nodes += len(level)
        below: list[tuple[int, int]] = []
        for begin, end in level:
            cut = place_to_cut(total_V1[begin : end + 1], same[begin : end - 1], DEEPEST - depth)
            pair: list[int] = []
            for part in ((begin, begin + cut), (begin + cut, end)):
                if part[1] - part[0] == 1:
                    pair.append(~order[part[0]])
                else:
                    pair.append(n_nodes + len(below))
                    below.append(part)
            pairs.append(pair)
        level, depth = below, depth + 1
    return np.ascontiguousarray(np.array(pairs, np.int32).reshape(-1, 2).T)


def place_to_cut(total: NDArray[Any], same: NDArray[Any], levels: int) -> int:
    """How many of the tokens come first, where so many levels are left for all of them.

    `total` counts the tokens before each place, `same` has the bits that neighbours have in common.
    """
    n = len(same) + 1
    if (n - 1).bit_length() >= levels:
        return n // 2
    smaller = np.minimum(total[1:-1] - total[0], total[-1] - total[1:-1])
    least = min(LEAST_SHARE * (total[-1] - total[0]), smaller.max())
    possible = np.flatnonzero(smaller >= least)
    earliest = possible[same[possible] == same[possible].min()]
    return int(earliest[np.argmax(smaller[earliest])]) + 1


def common_bits(a: bytes, b: bytes) -> int:
    """How many bits two strings of bytes have in common from their beginning."""
    for i, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return 8 * i + 8 - (one ^ other).bit_length()
    return 8 * min(len(a), len(b))
