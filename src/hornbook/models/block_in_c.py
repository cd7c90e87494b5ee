"""A GPT's block with its training passes in C: the same mathematics, each pass one call.

torch makes 75 passes over memory of one block there and 116 back, which native/block.c leaves in
the processor's caches. models/gpt.py stays the reference, and all but training goes by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd.function import Function, once_differentiable

from hornbook.kernels import BlockPass, Kernels
from hornbook.models.gpt import EPSILON, Block

if TYPE_CHECKING:
    from torch import Tensor

    from hornbook.models.kv_cache import LayerCache


def fuse(block: Block, kernels: Kernels) -> None:
    """Have a block trained by `kernels`, from outside, as `block.compile()` has it compiled."""

    def forward(
        x_BTC: Tensor,
        cos_TD: Tensor,
        sin_TD: Tensor,
        cache: LayerCache | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        windowed = x_BTC.size(1) > block.attention.window
        if cache is not None or windowed or not torch.is_grad_enabled():
            return Block.forward(block, x_BTC, cos_TD, sin_TD, cache, noise)
        beside = Beside(block, kernels, cos_TD, sin_TD, noise)
        y_BTC: Tensor = Passes.apply(beside, x_BTC, *block.parameters())
        return y_BTC

    vars(block)["forward"] = forward


class Beside(NamedTuple):
    """What a block's passes need that takes no gradient."""

    block: Block
    kernels: Kernels
    cosines: Tensor
    sines: Tensor
    noise: Tensor | None


class Passes(Function):
    """native/block.c as torch's autograd sees it: x and weights in, and their gradients back."""

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ARG004 (torch's own signature)
        ctx, beside, x_BTC, *weights = args
        x_BTC = x_BTC.contiguous()
        block, (B, T, C) = beside.block, x_BTC.shape
        H, F = block.attention.n_head, block.mlp.gate.weight.size(0)
        dropped = round(256 * block.dropout)
        shape = BlockPass(B, T, C, H, C // H, F, torch.get_num_threads(), dropped, EPSILON)
        shape.weights[:] = [weight.data_ptr() for weight in weights]
        y_BTC = torch.empty_like(x_BTC)
        kept = torch.empty(beside.kernels.kept_numbers(shape), dtype=x_BTC.dtype)
        point(shape, beside, x=x_BTC, kept=kept, y=y_BTC)
        beside.kernels.forward(shape)
        ctx.save_for_backward(x_BTC, *weights)
        ctx.shape, ctx.beside, ctx.kept = shape, beside, kept
        return y_BTC

    @staticmethod
    @once_differentiable
    # It forgets the names of parameters.
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        x_BTC, *weights = ctx.saved_tensors
        (dy_BTC,) = (each.contiguous() for each in grad_outputs)
        dx_BTC = torch.empty_like(dy_BTC)
        sizes = [weight.numel() for weight in weights]
        gradients = torch.empty(sum(sizes))
        point(ctx.shape, ctx.beside, x=x_BTC, dy=dy_BTC, dx=dx_BTC, gradients=gradients)
        ctx.beside.kernels.backward(ctx.shape)
        parts = zip(gradients.split(sizes), weights, strict=True)
        return None, dx_BTC, *(part.view_as(weight) for part, weight in parts)


def point(shape: BlockPass, beside: Beside, **tensors: Tensor) -> None:
    """Tell C where tensors are, by the names it has for them."""
    read = {"cosines": beside.cosines, "sines": beside.sines, "noise": beside.noise}
    for name, tensor in (read | tensors).items():
        setattr(shape, name, None if tensor is None else tensor.data_ptr())
