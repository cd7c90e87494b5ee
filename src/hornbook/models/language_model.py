"""The protocol of every rung: tokens in, logits and perhaps a loss out."""

from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LanguageModel(nn.Module):
    """What a rung of the ladder is: a next-token predictor over `vocab_size` tokens.

    `block_size` is the length of the texts it learns from, `context_size` (the same, unless given)
    of the longest that it reads at once; `compute_dtype` the precision of the
    activations, which the trainer sets (the weights stay float32). A subclass writes
    ``forward(idx, targets=None)`` and returns ``logits_and_loss(...)``, as the lecture's models do.
    """

    def __init__(self, vocab_size: int, block_size: int, context_size: int | None = None) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.block_size = block_size
        self.context_size = context_size or block_size
        self.compute_dtype = torch.float32
        # How many tokens the windows of an exact evaluation share; see `hornbook.evaluation`.
        self.overlap = 0

    def logits_and_loss(
        self, logits_BTV: Tensor, targets_BT: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits and mean cross-entropy in nats; without targets the loss is None.

        Shapes: [B,T,V] alone comes back as it is; with targets [B,T] the logits come back
        flattened to (B*T, V), the lecture's convention.
        """
        if targets_BT is None:
            return logits_BTV, None
        logits = logits_BTV.flatten(0, 1)
        return logits, F.cross_entropy(logits.float(), targets_BT.flatten())

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int) -> Tensor:
        """Append sampled tokens one by one, rereading the context each time: [B,T] -> [B,T+n].

        The lecture's loop, drawing from torch's global generator: the reference that
        `hornbook.generate` is held to, and too slow for anything else.
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
        """Where the model is."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def summary(self) -> str:
        """What there is of it, in a line."""
        return f"{self.parameter_count:,} parameters, reads {self.context_size} tokens at once"

    @property
    def parameter_count(self) -> int:
        """Distinct trainable numbers; a tied table counts once."""
        return sum(parameter.numel() for parameter in self.parameters())
