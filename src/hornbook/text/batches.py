"""Which tokens a step reads: blocks at random places of a token array, and their targets."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hornbook.errors import DataError
from hornbook.language import msg
from hornbook.text.arrays import MOST_MAPPED_BYTES, Tokens, release
from hornbook.text.store import Drawing


class Blocks(NamedTuple):
    """Blocks of a token array, each with the tokens that follow its own."""

    inputs: Tensor  # [B,T], int64
    targets: Tensor  # [B,T], int64
    starts: NDArray[np.int64]  # [B], where each begins in the array


def draw_blocks(
    tokens: Tokens,
    index: int,
    *,
    batch_size: int,
    block_size: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
    places: NDArray[np.int64] | None = None,
) -> Blocks:
    """The blocks of the index-th batch: a pure function, so that resuming needs no state.

    A rank has every `world`-th block, so that the ranks together read the same `batch_size` blocks
    whatever their number; one has none where there are fewer blocks than ranks. They begin
    anywhere, or at one of `places`.
    """
    # The counter's top word is the batch's number: streams of different batches cannot overlap.
    random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, index]))
    most = len(tokens) - block_size if places is None else len(places)
    starts = random.integers(most, size=batch_size)[rank::world]
    starts = starts if places is None else places[starts]
    windows = tokens[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)
    if tokens.nbytes > MOST_MAPPED_BYTES:
        release(tokens)
    return blocks_of(windows, starts)


def stored_blocks(
    drawing: Drawing, index: int, *, batch_size: int, rank: int = 0, world: int = 1
) -> Blocks:
    """The blocks of the index-th batch of a store; ranks share them out as in `draw_blocks`.

    They begin where they lie in the store's sample, or before it. Raises: DataError for a damaged
    shard.
    """
    windows, starts = drawing.draw(index * batch_size + np.arange(rank, batch_size, world))
    return blocks_of(windows.astype(np.int64), starts)


def blocks_of(windows: NDArray[np.int64], starts: NDArray[np.int64]) -> Blocks:
    """Blocks and their targets. Shapes: [B,T+1], [B] -> Blocks of [B,T]."""
    pairs = torch.from_numpy(windows)
    return Blocks(pairs[:, :-1].contiguous(), pairs[:, 1:].contiguous(), starts)


def answer_places(
    answers: NDArray[np.bool_], starts: NDArray[np.int64], block_size: int, before: int = 0
) -> NDArray[np.int64]:
    """Where blocks of conversations begin, each with an answer among its targets.

    They begin with a conversation; a long one has several blocks, and after a short one the block
    goes on with the next. `before` so many tokens in front of each are read too.
    Raises: DataError where no such block fits.
    """
    ends = [*starts[1:].tolist(), len(answers)]
    spans = zip(starts.tolist(), ends, strict=True)
    found = np.concatenate([np.arange(*span, block_size) for span in spans])
    places = np.minimum(found, len(answers) - block_size - 1) - before
    counted = np.concatenate([[0], np.cumsum(answers)])
    first = places + before + 1
    some = (places >= 0) & (counted[first + block_size] > counted[first.clip(0)])
    if not some.any():
        raise DataError(msg("no block of the training part has an answer: raise block_size"))
    return places[some]


def batch(
    tokens: Tokens,
    index: int,
    *,
    batch_size: int,
    block_size: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
) -> tuple[Tensor, Tensor]:
    """The inputs and targets of `draw_blocks`: two of [B, block_size], int64."""
    sizes = {"batch_size": batch_size, "block_size": block_size}
    return draw_blocks(tokens, index, seed=seed, rank=rank, world=world, **sizes)[:2]


def get_batch(
    data: Tensor,
    batch_size: int = 4,
    block_size: int = 8,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The lecture's batch: blocks from random places, and the same blocks one token on.

    Shapes: data [N] -> inputs and targets [batch_size, block_size]. Draws from `generator`, or
    from torch's global one as the notebook does.
    The notebook names its data, get_batch("train"); here they are passed, and its sizes are the
    defaults. Raises: DataError when no block fits, and for a name.
    """
    if not isinstance(data, Tensor):
        raise DataError(
            msg(
                "expected the tokens themselves, a tensor such as train_data, got {data!r:.40}: "
                "write get_batch(train_data, batch_size=4, block_size=8)",
                data=data,
            )
        )
    if len(data) <= block_size:
        raise DataError(
            msg(
                "data has {number} tokens; a block of {block_size} needs one more",
                number=len(data),
                block_size=block_size,
            )
        )
    starts = torch.randint(len(data) - block_size, (batch_size,), generator=generator)
    inputs = torch.stack([data[start : start + block_size] for start in starts])
    targets = torch.stack([data[start + 1 : start + block_size + 1] for start in starts])
    return inputs, targets
