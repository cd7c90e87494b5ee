"""The exact loss: every position of a split, counted once."""

import math
from dataclasses import asdict, dataclass
from itertools import cycle

import numpy as np
import torch

from hornbook.kernels.runtime import eagerly
from hornbook.models.language_model import LanguageModel
from hornbook.parallel import ALONE, Ranks
from hornbook.text.dataset import Mask, Tokens, check_length
from hornbook.text.tokenizer import Tokenizer

# At once so many tokens, and of a large vocabulary no more logits than these: 32 MB a copy, of
# which counts beside a network make nine.
EVAL_BATCH_TOKENS, EVAL_BATCH_LOGITS = 8192, 2**23
# Of a larger part, at the end of a run, evenly spaced stretches: with counts beside it the default
# model reads half a million positions in 9 s on two cores.
MOST_EVALUATED = 500_000


@dataclass(frozen=True)
class Evaluation:
    """A model's loss on a text, in four units; with a sliding window too, where that was asked for.

    Exact, unless `standard_error` (of `nats_per_char`) says that it is an estimate.
    """

    nats_per_token: float
    nats_per_char: float
    bits_per_char: float
    bits_per_byte: float
    sliding_nats_per_char: float | None
    positions: int
    standard_error: float | None = None

    def as_dict(self) -> dict[str, float | int | None]:
        """The figures as JSON has them; an infinite one, which only "mle" counts have, is null."""
        return {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in asdict(self).items()
        }


@torch.no_grad()
def losses(
    model: LanguageModel,
    tokens: Tokens,
    *,
    block_size: int,
    stride: int | None = None,
    max_positions: int | None = None,
    ranks: Ranks = ALONE,
) -> np.ndarray:
    """Loss in nats of each predicted token: all but the first, each exactly once.

    Windows of `block_size` start every `stride` tokens and score only what the window before did
    not, so that with a smaller stride every position but the first few sees at least
    ``block_size - stride`` tokens of context. Unless given, the stride is `block_size`, less the
    model's own overlap: only an n-gram model has one, and sees all its context everywhere.
    `max_positions` takes evenly spaced windows only, for an estimate. Several `ranks` call it
    together: each evaluates a share of the batches of windows, and all have the same result.
    Shapes: tokens [N] -> float64 [N-1], or fewer with `max_positions`.
    Raises: DataError when there are not two tokens.
    """
    check_length(tokens, 1, "evaluated")
    stride = stride or block_size - model.overlap
    total = len(tokens) - 1
    starts = list(range(0, max(1, total - block_size + stride), stride))
    if max_positions is not None and max_positions < total:
        keep = max(1, max_positions // block_size)
        starts = [starts[i * len(starts) // keep] for i in range(min(keep, len(starts)))]
    at_once = min(EVAL_BATCH_TOKENS, EVAL_BATCH_LOGITS // model.vocab_size)
    rows = max(1, at_once // block_size)
    was_training = model.training
    model.eval()
    # One array for all: small ones kept between the large ones of each batch split the holes that
    # these leave, and 500,000 positions of 5,693 characters took 10 GB of holes.
    kind = torch.float64 if model.device.type == "cpu" else torch.float32
    scored = torch.empty(len(starts) * block_size, dtype=kind, device=model.device)
    filled = 0
    try:
        with eagerly():
            whole = [start for start in starts if start + block_size <= total]
            batches = [whole[i : i + rows] for i in range(0, len(whole), rows)]
            batches += [[start] for start in starts if start + block_size > total]
            if ranks.sharded and ranks.rank >= (len(batches) % ranks.world or ranks.world):
                # In the last round the others pass without this rank, whose weights they need.
                model.token_losses(*torch.zeros(2, 1, 1, dtype=torch.long, device=model.device))
            for batch, rank in zip(batches, cycle(range(ranks.world)), strict=False):
                length = min(block_size, total - batch[0])
                if rank == ranks.rank:
                    index = np.asarray(batch)[:, None] + np.arange(length + 1)
                    window = torch.from_numpy(tokens[index].astype(np.int64)).to(model.device)
                    nats = model.token_losses(window[:, :-1], window[:, 1:])
                else:  # zeros, so that the sum over all ranks has each loss to the bit
                    nats = torch.zeros(len(batch), length, device=model.device)
                for start, row in zip(batch, nats, strict=True):
                    new = row if start == 0 else row[block_size - stride :]
                    scored[filled : filled + len(new)] = new
                    filled += len(new)
    finally:
        model.train(was_training)
    return ranks.total(scored[:filled]).double().cpu().numpy()


def estimate(
    model: LanguageModel,
    tokens: Tokens,
    *,
    block_size: int,
    max_positions: int,
    answers: Mask | None = None,
    ranks: Ranks = ALONE,
) -> float:
    """Mean nats per token over evenly spaced blocks: the same ones every time.

    Of conversations it is that of the `answers`, in about the first `max_positions` tokens.
    """
    if answers is None:
        found = losses(
            model, tokens, block_size=block_size, max_positions=max_positions, ranks=ranks
        )
        return float(found.mean())
    # As far as the first answer at least.
    most = max(max_positions, int(answers[1:].argmax()) + 1) + 1
    found = losses(model, tokens[:most], block_size=block_size, ranks=ranks)
    return float(found[answers[1:most]].mean())


def evaluate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    tokens: Tokens,
    *,
    block_size: int,
    max_positions: int | None = None,
    answers: Mask | None = None,
) -> Evaluation:
    """The exact loss over a split, in non-overlapping blocks and with a window sliding by half.

    Characters and bytes are those of the predicted tokens; a character cut over several tokens
    counts with its first byte. Of a split with more than `max_positions` it is an estimate from
    evenly spaced blocks, with the standard error of their mean. Of conversations the loss is that
    of the `answers`, in the first `max_positions` tokens.
    Raises: DataError when there are not two tokens.
    """
    if answers is not None:
        tokens, max_positions = tokens[: max_positions and max_positions + 1], None
    block, sliding = (
        losses(model, tokens, block_size=block_size, stride=stride, max_positions=max_positions)
        for stride in (None, max(1, block_size // 2))
    )
    if answers is not None:
        kept = answers[1 : len(tokens)]
        block, sliding = block[kept], sliding[kept]
        tokens = np.concatenate([tokens[:1], tokens[1:][kept]])
    return summarise(tokenizer, tokens, block, sliding, block_size=block_size)


def summarise(
    tokenizer: Tokenizer,
    tokens: Tokens,
    block: np.ndarray,
    sliding: np.ndarray | None,
    *,
    block_size: int,
) -> Evaluation:
    """The figures of a split's losses, in blocks and perhaps sliding; estimates if not of all."""
    chars, bytes_ = lengths(tokenizer, tokens[1:])
    mean, positions, standard_error = float(block.mean()), len(tokens) - 1, None
    a_char = positions / chars
    if len(block) < positions:
        means = block[: len(block) // block_size * block_size].reshape(-1, block_size).mean(axis=1)
        deviation = float(means.std(ddof=1)) if len(means) > 1 else math.inf
        standard_error = deviation / math.sqrt(len(means)) * a_char
    return Evaluation(
        nats_per_token=mean,
        nats_per_char=mean * a_char,
        bits_per_char=mean * a_char / math.log(2),
        bits_per_byte=mean * positions / bytes_ / math.log(2),
        sliding_nats_per_char=None if sliding is None else float(sliding.mean()) * a_char,
        positions=len(block),
        standard_error=standard_error,
    )


def lengths(tokenizer: Tokenizer, tokens: Tokens) -> tuple[int, int]:
    """How many characters and bytes the tokens spell; a character counts with its first byte."""
    spelled = tokenizer.token_bytes()
    counts = np.zeros(len(spelled), np.int64)
    # A part at a time: bincount needs eight bytes a token.
    for start in range(0, len(tokens), 1 << 20):
        counts += np.bincount(tokens[start : start + (1 << 20)], minlength=len(spelled))
    byte_lengths = np.array([len(token) for token in spelled])
    char_lengths = np.array([sum(byte & 0xC0 != 0x80 for byte in token) for token in spelled])
    # At least 1, for a text whose predicted tokens all fall inside one character.
    return max(1, int(counts @ char_lengths)), max(1, int(counts @ byte_lengths))


def per_char(tokenizer: Tokenizer, tokens: Tokens) -> float:
    """Predicted tokens per character: turns a mean loss per token into one per character."""
    return (len(tokens) - 1) / lengths(tokenizer, tokens[1:])[0]
