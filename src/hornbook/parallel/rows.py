"""Matrices of which each rank has some rows: whole for one of them, and back.

FSDP2 gives the first ceil(R/W) of R rows to the first of W ranks, as many to the next, and what is
left to the last ones, which may have none.

Both ways are one exchange for all matrices together: each number travels once.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Shape = tuple[int, int]


def edges(rows: int, world: int) -> list[int]:
    """Where the rows of each rank begin, and the last one's end: [W+1]."""
    each = -(-rows // world)
    return [min(rank * each, rows) for rank in range(world + 1)]


def to_owners(
    parts: Sequence[Tensor], shapes: Sequence[Shape], shares: Sequence[list[int]], group: Any
) -> list[Tensor]:
    """Send the rows of each matrix to its owner; returns the whole matrices of this rank's share.

    Shapes: `parts` has this rank's rows of each matrix. All are of one dtype.
    """
    rank, world = dist.get_rank(group), len(shares)
    sent = [torch.cat([parts[place].flatten() for place in share] or [empty(parts)])
            for share in shares]  # fmt: skip
    sizes = [
        [high - low for low, high in pairwise(edges(shapes[place][0], world))]
        for place in shares[rank]
    ]
    counts = [
        sum(
            rows[sender] * shapes[place][1] for rows, place in zip(sizes, shares[rank], strict=True)
        )
        for sender in range(world)
    ]
    received = exchanged(sent, counts, group)
    found: list[list[Tensor]] = [[] for _ in sizes]
    for sender, numbers in enumerate(received):
        lengths = [
            rows[sender] * shapes[place][1] for rows, place in zip(sizes, shares[rank], strict=True)
        ]
        for whole, piece, place in zip(found, numbers.split(lengths), shares[rank], strict=True):
            whole.append(piece.view(-1, shapes[place][1]))
    return [torch.cat(pieces) for pieces in found]


def to_rows(
    matrices: Sequence[Tensor],
    parts: Sequence[Tensor],
    shapes: Sequence[Shape],
    shares: Sequence[list[int]],
    group: Any,
) -> list[Tensor]:
    """Send each rank its rows of this rank's share of the matrices; returns its rows of all.

    Shapes: as `parts`, which stand for what is to come.
    """
    rank, world = dist.get_rank(group), len(shares)
    cuts = [edges(shapes[place][0], world) for place in shares[rank]]
    sent = [
        torch.cat(
            [whole[cut[to] : cut[to + 1]].flatten()
             for whole, cut in zip(matrices, cuts, strict=True)] or [empty(matrices or parts)]
        )
        for to in range(world)
    ]  # fmt: skip
    counts = [sum(parts[place].numel() for place in share) for share in shares]
    found = list(parts)
    for share, numbers in zip(shares, exchanged(sent, counts, group), strict=True):
        pieces = numbers.split([parts[place].numel() for place in share])
        for place, piece in zip(share, pieces, strict=True):
            found[place] = piece.view(parts[place].shape)
    return found


def empty(like: Sequence[Tensor]) -> Tensor:
    """No numbers, of these tensors' kind."""
    return like[0].new_empty(0)


def exchanged(sent: list[Tensor], counts: list[int], group: Any) -> tuple[Tensor, ...]:
    """What each rank sent to this one, of so many numbers."""
    received = sent[0].new_empty(sum(counts))
    dist.all_to_all_single(
        received, torch.cat(sent), counts, [each.numel() for each in sent], group=group
    )
    return received.split(counts)
