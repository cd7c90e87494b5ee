"""Counts beside a network read in C: models/ngram.py and models/recent.py, each in one call.

A step of 1,024 tokens takes 11 ms of torch for them on two cores, and 2 of C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import Function, once_differentiable

from hornbook.kernels import CountsInC, Mixing, Reading, counts_in_c
from hornbook.kernels.counts import Table
from hornbook.models.context_counts import LENGTHS, Recent
from hornbook.models.ngram import Counted, NGramLanguageModel

if TYPE_CHECKING:
    from torch import Tensor

# Above these counts.c has no room on its stack, and places of tables are no longer 32 bits.
LONGEST_ROW, MOST_PLACES, MOST_ORDERS = 2**14, 2**31, 64


def fuse_counts(model: torch.nn.Module) -> None:
    """Have all counts of a model on a CPU read by C, from outside.

    Raises: NativeUnavailableError.
    """
    for part in model.modules():
        if isinstance(part, NGramLanguageModel):
            read_in_c(part, counts_in_c())
        elif isinstance(part, Recent):
            mix_in_c(part, counts_in_c())


def read_in_c(model: NGramLanguageModel, in_c: CountsInC) -> None:
    """Have `counted` in C."""
    if model.order > MOST_ORDERS or any(len(table.keys) >= MOST_PLACES for table in model.tables):
        return
    kept = [(table.keys, table.first, table.kept, table.back) for table in model.tables]
    tables = (Table * model.order)(*(tuple(map(torch.Tensor.data_ptr, each)) for each in kept))

    def counted(idx_BS: Tensor, last: int | None = None, model_B: Tensor | None = None) -> Counted:
        if idx_BS.device.type != "cpu":
            return NGramLanguageModel.counted(model, idx_BS, last, model_B)
        B, S = idx_BS.shape
        T = S if last is None else min(last, S)
        tokens = idx_BS.contiguous()
        models = None if model_B is None else model_B.contiguous()
        p_BTV = torch.empty(B, T, model.vocab_size)
        shares_BTN = torch.empty(B, T, model.order)
        in_c.read(
            Reading(
                B, S, T, model.vocab_size, len(kept), model.smoothing == "add-k",
                torch.get_num_threads(), tables, tokens.data_ptr(),
                None if models is None else models.data_ptr(),
                p_BTV.data_ptr(), shares_BTN.data_ptr(),
            )
        )  # fmt: skip
        return Counted(p_BTV, shares_BTN)

    vars(model)["counted"] = counted


def mix_in_c(recent: Recent, in_c: CountsInC) -> None:
    """Have `forward` in C."""

    def forward(idx_BS: Tensor, p_BTV: Tensor) -> tuple[Tensor, Tensor]:
        elsewhere = idx_BS.device.type != "cpu" or p_BTV.requires_grad
        if elsewhere or idx_BS.size(1) > LONGEST_ROW:
            return Recent.forward(recent, idx_BS, p_BTV)
        return Mix.apply(in_c, recent.shortest, idx_BS, p_BTV, recent.log_strength)

    vars(recent)["forward"] = forward


class Mix(Function):
    """counts.c's mixing as torch's autograd sees it: strengths in, and their gradient back."""

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ARG004 (torch's own signature)
        ctx, in_c, shortest, idx_BS, p_BTV, log_strength_R = args
        (B, T, V), S = p_BTV.shape, idx_BS.size(1)
        tokens, p_BTV, strength_R = idx_BS.contiguous(), p_BTV.contiguous(), log_strength_R.exp()
        mixed_BTV, came_BTR = torch.empty_like(p_BTV), torch.empty(B, T, LENGTHS)
        mixing = Mixing(
            B, S, T, V, torch.get_num_threads(), shortest, LENGTHS, tokens.data_ptr(),
            p_BTV.data_ptr(), strength_R.data_ptr(), mixed_BTV.data_ptr(), came_BTR.data_ptr(),
        )  # fmt: skip
        in_c.mix(mixing)
        ctx.mark_non_differentiable(came_BTR)
        ctx.in_c, ctx.mixing, ctx.read = in_c, mixing, (tokens, p_BTV, strength_R, came_BTR)
        return mixed_BTV, came_BTR

    @staticmethod
    @once_differentiable
    # It forgets the names of parameters.
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        d_mixed_BTV = grad_outputs[0].contiguous()
        stretches = ctx.in_c.stretches(ctx.mixing)
        d_log_strengths = torch.zeros(stretches, LENGTHS, dtype=torch.float64)
        ctx.mixing.d_mixed = d_mixed_BTV.data_ptr()
        ctx.mixing.d_log_strengths = d_log_strengths.data_ptr()
        ctx.in_c.mix(ctx.mixing)
        return None, None, None, None, d_log_strengths.sum(0).float()
