"""A vocabulary as a binary code tree: each token a path of decisions, frequent tokens a short one.

Shapes in names: V vocabulary, N = V - 1 nodes.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator

Ints: TypeAlias = NDArray[np.int32]

# A bucket holds a subtree of so many levels.
LEVELS = 3


@dataclass(frozen=True)
class CodeTree:
    """Huffman's tree, nodes in breadth-first order: a node comes after its parent.

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
    def of_counts(cls, counts_V: NDArray[Any]) -> CodeTree:
        """The tree of tokens that occur so often. Source: Huffman 1952."""
        return cls.of_children(children(counts_V))

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


def children(counts_V: NDArray[Any]) -> Ints:
    """Huffman's tree of these counts as the two children of each node: [V] -> [2,N]."""
    V = len(counts_V)
    # A half more: a token that never occurs has a path too. Ties go by age, so that equal counts
    # give one tree everywhere.
    heap = [(2 * int(count) + 1, age, ~age) for age, count in enumerate(counts_V)]
    heapq.heapify(heap)
    joined: list[tuple[int, int]] = []
    for age in range(V, 2 * V - 1):
        (few, _, zero), (more, _, one) = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (few + more, age, len(joined)))
        joined.append((zero, one))
    order = list(breadth_first(joined))
    place = {node: number for number, node in enumerate(order)}
    pairs = [[child if child < 0 else place[child] for child in joined[node]] for node in order]
    return np.ascontiguousarray(np.array(pairs, np.int32).reshape(-1, 2).T)


def breadth_first(joined: list[tuple[int, int]]) -> Iterator[int]:
    """The nodes of a tree from its root, the last one, level by level."""
    level = [len(joined) - 1] if joined else []
    while level:
        yield from level
        level = [child for node in level for child in joined[node] if child >= 0]
