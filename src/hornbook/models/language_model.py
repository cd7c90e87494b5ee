"""The protocol of every model: tokens in, logits and perhaps a loss out."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.language import msg

if TYPE_CHECKING:
    from hornbook.models.ngram import NGramProbs


# The target of a position that has no loss, as in torch.
NO_TARGET = -100


class Batch(NamedTuple):
    """What a training step reads at once. Where S > T, the first inputs are context for n-grams."""

    inputs: Tensor  # [B,S]
    targets: Tensor  # [B,T], the successors of the last T inputs, or NO_TARGET
    ngram_probs: NGramProbs | None = None


class LanguageModel(nn.Module):
    """A next-token predictor over `vocab_size` tokens.

    It is trained on blocks of `block_size` tokens, and reads up to `context_size` at once (the
    same, unless given). The trainer sets `compute_dtype`, the precision of the activations; weights
    stay float32. A subclass writes ``forward(idx, targets=None)`` and returns
    ``logits_and_loss(...)``, as the lecture's models do.
    """

    def __init__(self, vocab_size: int, block_size: int, context_size: int | None = None) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.block_size = block_size
        self.context_size = context_size or block_size
        self.compute_dtype = torch.float32
        # Tokens that two neighbouring windows of an exact evaluation share; see `eval.loss`.
        self.overlap = 0

    def logits_and_loss(
        self, logits_BTV: Tensor, targets_BT: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits and mean cross-entropy in nats; without targets the loss is None.

        Shapes: [B,T,V] alone is returned as it is; with targets [B,T] the logits are flattened to
        (B*T, V), the lecture's convention.
        """
        if targets_BT is None:
            return logits_BTV, None
        logits = logits_BTV.flatten(0, 1)
        return logits, F.cross_entropy(logits.float(), targets_BT.flatten())

    def training_loss(self, batch: Batch) -> Tensor:
        """The mean cross-entropy of a training batch, in nats a token."""
        _, loss = self(batch.inputs, batch.targets)
        return loss

    def token_losses(self, idx_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The cross-entropy of each target, in nats: two of [B,T] -> [B,T]."""
        logits, _ = self(idx_BT)
        nats = F.cross_entropy(logits.float().flatten(0, 1), targets_BT.flatten(), reduction="none")
        return nats.view(targets_BT.shape)

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int) -> Tensor:
        """Append sampled tokens one at a time, rereading the context each time: [B,T] -> [B,T+n].

        The lecture's loop, which draws from torch's global generator. It is the reference for the
        engine in `hornbook.infer`, and too slow for anything else.
        """
        for _ in range(max_new_tokens):
            logits, _ = self(idx[:, -self.context_size :])
            probabilities = F.softmax(logits[:, -1].float(), dim=-1)
            idx = torch.cat((idx, torch.multinomial(probabilities, num_samples=1)), dim=1)
        return idx

    def next_logits(self, idx_BT: Tensor) -> Tensor:
        """Logits of the token after the last one, float32: [B,T] -> [B,V]."""
        logits_BTV, _ = self(idx_BT)
        return logits_BTV[:, -1].float()

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def summary(self) -> str:
        """Size and context in one line."""
        return msg(
            "{parameters:,} parameters, context of {context} tokens",
            parameters=self.parameter_count,
            context=self.context_size,
        )

    @property
    def parameter_count(self) -> int:
        """Distinct parameters; a tied table counts once."""
        return sum(parameter.numel() for parameter in self.parameters())


def has_hooks(module: nn.Module) -> bool:
    """Whether a forward or backward hook is registered on any part of a module, itself left out.

    A fused kernel runs no part on its own, so hooks there would not fire.
    """
    parts = module.modules()
    next(parts)
    return any(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
        for part in parts
    )
