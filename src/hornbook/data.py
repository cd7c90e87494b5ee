"""From text to batches: the split, the token arrays on disk, and which tokens a step reads."""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hornbook.config import DataConfig
from hornbook.errors import DataError
from hornbook.text import Corpus, cache_folder
from hornbook.tokenizer import Tokenizer, build_tokenizer

FORMAT = 1
Tokens = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Dataset:
    """A corpus cut in two and tokenised; the arrays are memory-mapped from the cache."""

    tokenizer: Tokenizer
    train: Tokens
    validation: Tokens
    fingerprint: str


def split_text(text: str, validation_fraction: float = 0.1) -> tuple[str, str]:
    """The first part to learn from and the rest to be tested on, cut between two characters.

    Raises: DataError when either part would be empty.
    """
    # The lecture's int(0.9 * len(data)), to the character.
    cut = int((1 - validation_fraction) * len(text))
    if not 0 < cut < len(text):
        raise DataError(
            f"the text has {len(text)} characters, too few to split into training and validation"
        )
    return text[:cut], text[cut:]


def prepare(corpus: Corpus, config: DataConfig, tokenizer: Tokenizer | None = None) -> Dataset:
    """Tokenise a corpus, or find it tokenised in the cache.

    A tokenizer given is used as it is; otherwise characters come from the whole text, as in the
    lecture, and BPE learns its merges from the training part alone.
    Raises: DataError when the text cannot be split; UnknownCharacterError from a given tokenizer.
    """
    train_text, validation_text = split_text(corpus.text, config.validation_fraction)
    if tokenizer is None:
        learn_from = train_text if config.tokenizer == "bpe" else corpus.text
        tokenizer = build_tokenizer(config.tokenizer, learn_from, vocab_size=config.bpe_vocab_size)
    fingerprint = hashlib.sha256(
        json.dumps(
            [FORMAT, corpus.sha256, config.validation_fraction, tokenizer.to_json()]
        ).encode()
    ).hexdigest()
    folder = cache_folder() / "tokens" / fingerprint[:32]
    arrays = read_arrays(folder)
    if arrays is None:
        encoded = tokenizer.encode_array(train_text), tokenizer.encode_array(validation_text)
        arrays = write_arrays(folder, *encoded)
    return Dataset(tokenizer, *arrays, fingerprint)


def read_arrays(folder: Path) -> tuple[Tokens, Tokens] | None:
    """Both arrays, memory-mapped; None where they are absent or damaged."""
    try:
        train, validation = (
            np.load(folder / f"{part}.npy", mmap_mode="r", allow_pickle=False)
            for part in ("train", "validation")
        )
    except (OSError, ValueError, EOFError):
        return None
    return train, validation


def write_arrays(folder: Path, train: Tokens, validation: Tokens) -> tuple[Tokens, Tokens]:
    """Keep both arrays, whole or not at all, and give them back memory-mapped.

    Where the cache cannot be written the arrays simply stay in memory: a cache is a convenience.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
        try:
            np.save(temporary / "train.npy", train)
            np.save(temporary / "validation.npy", validation)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError:
        return train, validation
    return read_arrays(folder) or (train, validation)


def check_length(tokens: Tokens, block_size: int, part: str) -> None:
    """See that one block and the token after it fit.

    Raises: DataError saying how many tokens there are and how many are needed.
    """
    if len(tokens) <= block_size:
        raise DataError(
            f"the {part} part of the text has {len(tokens)} tokens, but block_size = {block_size} "
            f"needs at least {block_size + 1}; give a longer text or a smaller block "
            f"(--set block_size={max(1, (len(tokens) - 1) // 2)})"
        )


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
    """The index-th batch: a pure function of its arguments, so resuming needs no state.

    The batches of all ranks together are the same blocks whatever the world's size, for one
    `batch_size * world`.
    Shapes: tokens [N] -> inputs and targets, int64 [batch_size, block_size].
    """
    starts = batch_starts(
        len(tokens) - block_size, index, batch_size=batch_size * world, seed=seed
    )[rank::world]
    windows = tokens[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)
    pairs = torch.from_numpy(windows)
    return pairs[:, :-1].contiguous(), pairs[:, 1:].contiguous()


def batch_starts(n_places: int, index: int, *, batch_size: int, seed: int) -> NDArray[np.int64]:
    """Where the blocks of the index-th batch start, each below `n_places`; shape [batch_size]."""
    # The counter's top word is the batch's number: streams of different batches cannot meet.
    random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, index]))
    return random.integers(n_places, size=batch_size)


def get_batch(
    data: Tensor, batch_size: int, block_size: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """The lecture's batch: blocks from random places, and the same blocks one token on.

    Shapes: data [N] -> inputs and targets [batch_size, block_size]. Draws from `generator`, or
    from torch's global one as the notebook does.
    Raises: DataError when no block fits.
    """
    if len(data) <= block_size:
        raise DataError(f"data has {len(data)} tokens; a block of {block_size} needs one more")
    starts = torch.randint(len(data) - block_size, (batch_size,), generator=generator)
    inputs = torch.stack([data[start : start + block_size] for start in starts])
    targets = torch.stack([data[start + 1 : start + block_size + 1] for start in starts])
    return inputs, targets
