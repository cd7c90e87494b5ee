"""What every stack of blocks between two tables shares: logits, losses, and the key-value cache.

Shapes in names: B batch, T time, N positions, R those of a chunk, C n_embd, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hornbook.models.kv_cache import KeyValueCache
from hornbook.models.language_model import NO_TARGET, Batch, LanguageModel
from hornbook.models.schema import CHUNK_LOGITS, LARGE_VOCABULARY

# Rows of a table whose gradients are computed before they are added: few enough for the caches.
ROWS_ADDED = 4096


class StackModel(LanguageModel):
    """An embedding table, `blocks`, and a table of logits; a subclass has `hidden`."""

    embedding: nn.Embedding
    blocks: nn.ModuleList
    logits: nn.Linear

    # Whether a training pass keeps only what enters each block, and computes the rest again.
    recompute = False

    def hidden(self, idx_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """The residual stream after the last block, normalised: [B,T] -> [B,T,C]."""
        raise NotImplementedError  # each subclass has its own; nn.Module is no abstract class

    @property
    def cache_shape(self) -> tuple[int, int]:
        """Key-value heads and the width of each."""
        raise NotImplementedError  # as above

    def new_cache(self, batch_size: int = 1) -> KeyValueCache:
        """An empty key-value cache for decoding `batch_size` texts together."""
        heads, width = self.cache_shape
        shape = (batch_size, heads, self.context_size, width)
        device = self.embedding.weight.device
        return KeyValueCache(len(self.blocks), shape, device, self.compute_dtype)

    def next_logits(self, idx_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Logits of the token after the last one, float32: [B,T] -> [B,V]; fills the cache."""
        return self.logits(self.hidden(idx_BT, cache)[:, -1]).float()

    def forward(
        self, idx_BT: Tensor, targets_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return self.logits_and_loss(self.logits(self.hidden(idx_BT)), targets_BT)

    def recomputed(self, block: nn.Module, x_BTC: Tensor, *others: Any) -> Tensor:
        """A block's output; its inside is not kept, but computed again in the backward pass."""
        if not torch.is_grad_enabled():
            return block(x_BTC, *others)
        from torch.utils.checkpoint import checkpoint

        # Nothing random happens inside: dropout's masks are among the inputs.
        made: Tensor = checkpoint(
            block, x_BTC, *others, use_reentrant=False, preserve_rng_state=False
        )
        return made

    def training_loss(self, batch: Batch) -> Tensor:
        """The mean cross-entropy of a training batch, in nats a token that has a target."""
        if self.vocab_size < LARGE_VOCABULARY:
            return super().training_loss(batch)
        hidden_BTC = self.hidden(batch.inputs)
        total = InChunks.apply(
            hidden_BTC.flatten(0, 1), self.logits.weight, batch.targets.flatten(), True
        )
        return total / (batch.targets != NO_TARGET).sum().clamp_min(1)

    def token_losses(self, idx_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The cross-entropy of each target, in nats: two of [B,T] -> [B,T]."""
        if self.vocab_size < LARGE_VOCABULARY:
            return super().token_losses(idx_BT, targets_BT)
        hidden_BTC = self.hidden(idx_BT)
        nats = InChunks.apply(
            hidden_BTC.flatten(0, 1), self.logits.weight, targets_BT.flatten(), False
        )
        return nats.view(targets_BT.shape)


class InChunks(torch.autograd.Function):
    """Cross-entropy of positions, [N], from their hidden states, a few logits at a time.

    Operands: [N,C], [V,C], [N], and whether the losses are `summed`. Gradients are computed in the
    forward pass, while the logits are there; only a sum has gradients. All chunks are computed in
    the same memory: with new tensors for each a process grew by 900 MB in its first step.
    """

    @staticmethod
    def forward(ctx: Any, *operands: Any) -> Tensor:  # pyrefly: ignore[bad-override]
        hidden_NC, weight_VC, targets_N, summed = operands
        weight = weight_VC.to(hidden_NC.dtype)
        rows = min(max(1, CHUNK_LOGITS // weight.size(0)), len(targets_N))
        to_hidden, to_weight = (summed and needed for needed in ctx.needs_input_grad[:2])
        grad_NC = torch.empty_like(hidden_NC) if to_hidden else None
        grad_VC = torch.zeros_like(weight_VC) if to_weight else None
        made_RV = hidden_NC.new_empty(rows, weight.size(0))
        exact_RV = torch.empty_like(made_RV, dtype=torch.float32)
        losses: list[Tensor] = []
        for start in range(0, len(targets_N), rows):
            hidden, targets = hidden_NC[start : start + rows], targets_N[start : start + rows]
            there = targets != NO_TARGET
            right = targets.where(there, 0)[:, None]
            made, exact = made_RV[: len(targets)], exact_RV[: len(targets)]
            torch.mm(hidden, weight.T, out=made)
            exact.copy_(made).sub_(made.amax(dim=-1, keepdim=True))
            chosen = exact.gather(1, right)
            sums = exact.exp_().sum(dim=-1, keepdim=True)
            losses.append((sums.log() - chosen).squeeze(1) * there)
            if grad_NC is None and grad_VC is None:
                continue
            exact.div_(sums).scatter_add_(1, right, -torch.ones_like(sums))
            gradient = made.copy_(exact.mul_(there[:, None]))
            if grad_NC is not None:
                torch.mm(gradient, weight, out=grad_NC[start : start + rows])
            if grad_VC is not None:
                for first in range(0, weight.size(0), ROWS_ADDED):
                    part = slice(first, first + ROWS_ADDED)
                    grad_VC[part] += gradient[:, part].T @ hidden
        ctx.save_for_backward(*(each for each in (grad_NC, grad_VC) if each is not None))
        ctx.made = grad_NC is not None, grad_VC is not None
        nats = torch.cat(losses)
        return nats.sum() if summed else nats

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        (scale,) = outputs
        # In place: these gradients are nobody else's, and the table's is as large as the table.
        found = [next(saved).mul_(scale) if made else None for made in ctx.made]
        return (*found, None, None)
