"""Checks an export in the engine that will run it: the same probabilities, and which loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hornbook.errors import CheckpointError, DataError
from hornbook.eval.loss import losses, per_char
from hornbook.interop.request import ExportError
from hornbook.language import msg

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from hornbook.models.language_model import LanguageModel
    from hornbook.runs.load import TrainedModel
    from hornbook.text.arrays import Tokens

CHECKED_TOKENS = 20_000
GENERATED_TOKENS = 1000
# Read at once: attention over 4,096 would take a gigabyte in engines that hold all its scores.
WINDOW = 1024


@dataclass(frozen=True)
class Engine:
    """A program that runs an export.

    `logits` maps a text of at most `window` tokens, [T], to logits or log-probabilities, [T,V].
    Where these differ by more than `tolerance` from ours, the export is wrong.
    """

    name: str
    logits: Callable[[NDArray[np.int64]], NDArray[Any]]
    window: int
    tolerance: float
    tokens: int = CHECKED_TOKENS


@dataclass(frozen=True)
class Text:
    """The tokens to check on, what they are, and the factor from losses a token to a character."""

    tokens: Tokens
    name: str
    tokens_per_char: float


@dataclass(frozen=True)
class Checked:
    """What an engine computed. Losses in nats per character.

    `difference` is the largest between two log-probabilities, given the same tokens.
    `hornbook_loss` is ours at its own context length, `context_size`.
    """

    engine: str
    text: str
    positions: int
    window: int
    difference: float
    loss: float
    hornbook_loss: float
    context_size: int

    def __str__(self) -> str:
        return msg(
            "{engine}: {loss:.4f} nats per character on {positions:,} tokens of the {text}, "
            "{window:,} at once (hornbook, {context_size:,} at once: {hornbook_loss:.4f}); "
            "log-probabilities differ by at most {difference:.1e}",
            **asdict(self),
        )


def text_of(trained: TrainedModel, *, named: bool = False) -> Text:
    """The run's validation text; a generated one where it is no longer there or was changed.

    Raises: DataError or CheckpointError instead, where the user has `named` a text.
    """
    try:
        tokens, name = trained.dataset().validation, msg("validation text")
    except (DataError, CheckpointError):
        if named:
            raise
        generated = trained.generate(max_new_tokens=GENERATED_TOKENS)
        tokens, name = trained.tokenizer.encode_array(generated), msg("generated text")
    tokens = tokens[: CHECKED_TOKENS + 1]
    return Text(tokens, name, per_char(trained.tokenizer, tokens))


def check(engine: Engine, trained: TrainedModel, text: Text) -> Checked:
    """Compare an engine with hornbook on a text, in windows of the engine's size.

    Raises: ExportError where they differ.
    """
    tokens = np.asarray(text.tokens[: engine.tokens + 1], np.int64)
    given, targets = tokens[:-1], tokens[1:]
    found: list[NDArray[np.float64]] = []
    difference = 0.0
    for start in range(0, len(given), engine.window):
        inputs = given[start : start + engine.window]
        with np.errstate(invalid="ignore"):  # of infinities there remains a difference of NaN
            theirs = normalised(engine.logits(inputs))
        ours = normalised(logits(trained.model, inputs))
        difference = float(np.maximum(difference, np.abs(theirs - ours).max()))
        found.append(-theirs[np.arange(len(inputs)), targets[start : start + engine.window]])
    # Written so that a difference of NaN fails.
    if not difference <= engine.tolerance:
        raise ExportError(
            msg(
                "{program} does not compute what hornbook does: log-probabilities differ by "
                "{difference:.2g}, expected at most {tolerance:g}; nothing was written",
                program=engine.name,
                difference=difference,
                tolerance=engine.tolerance,
            )
        )
    context_size = min(trained.config.model.context_size, len(given))
    ours = losses(trained.model, text.tokens[: len(tokens)], block_size=context_size)
    return Checked(
        engine=engine.name,
        text=text.name,
        positions=len(given),
        window=min(engine.window, len(given)),
        difference=difference,
        loss=float(np.concatenate(found).mean()) * text.tokens_per_char,
        hornbook_loss=float(ours.mean()) * text.tokens_per_char,
        context_size=context_size,
    )


def loss_in_blocks(trained: TrainedModel, text: Text) -> float:
    """Our loss in nats per character where no more than a block is read at once."""
    found = losses(trained.model, text.tokens, block_size=trained.model.block_size)
    return float(found.mean()) * text.tokens_per_char


@torch.no_grad()
def logits(model: LanguageModel, tokens: NDArray[np.int64]) -> NDArray[Any]:
    """Our logits after each token: [T] -> [T,V]."""
    found, _ = model(torch.from_numpy(tokens)[None])
    return found[0].float().cpu().numpy()


def normalised(logits_TV: NDArray[Any]) -> NDArray[np.float64]:
    """Log-probabilities of logits; log-probabilities stay what they are."""
    shifted = logits_TV.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
