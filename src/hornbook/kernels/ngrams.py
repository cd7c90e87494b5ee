"""The C kernels of n-grams beside a network: table lookup, and the context's own n-grams.

A step of 1,024 tokens takes PyTorch 11 ms for both on two cores, and C 2 ms.
`models.ngram.NGramLanguageModel` and `models.context_counts.ContextCounts` call this module, and
their PyTorch forms are the reference that the tests compare it with.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch.autograd.function import Function, once_differentiable

from hornbook.kernels.library import openmp, shared_library
from hornbook.kernels.recipe import NGRAMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Above these ngrams.c has no room on its stack, and places in tables are no longer 32 bits.
LONGEST_ROW, MOST_PLACES, MOST_ORDERS = 2**14, 2**31, 64


class Table(ctypes.Structure):
    """ngrams.c's Table."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("keys", "first", "kept", "back"))


class Lookup(ctypes.Structure):
    """ngrams.c's Lookup."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rows", "length", "last", "vocab_size")),
        *((name, ctypes.c_int32) for name in ("order", "uniform", "threads")),
        ("tables", ctypes.POINTER(Table)),
        *((name, ctypes.c_void_p) for name in ("tokens", "models", "p", "shares", "parallel")),
    )


class Mixing(ctypes.Structure):
    """ngrams.c's Mixing."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rows", "length", "last", "vocab_size", "threads")),
        *((name, ctypes.c_int32) for name in ("shortest", "lengths")),
        *((name, ctypes.c_void_p) for name in ("tokens", "p", "strengths", "mixed", "came")),
        *((name, ctypes.c_void_p) for name in ("d_mixed", "d_log_strengths", "parallel")),
    )


class NGramKernels(NamedTuple):
    """ngrams.c compiled, and the entry of torch's OpenMP."""

    library: ctypes.CDLL
    parallel: int

    def __deepcopy__(self, _memo: dict[int, object]) -> Self:
        """The same kernels: a library is loaded once in a process."""
        return self

    def run(self, name: str, call: Lookup | Mixing) -> None:
        """Call one kernel. Raises: IndexError for a token outside the vocabulary."""
        call.parallel = self.parallel
        if getattr(self.library, name)(ctypes.byref(call)):
            raise IndexError(f"expected tokens below {call.vocab_size}")


@lru_cache
def ngram_kernels() -> NGramKernels:
    """The kernels, compiled where none came with hornbook.

    Raises: NativeUnavailableError with the reason in one line.
    """
    return NGramKernels(shared_library(NGRAMS).handle, openmp())


def lookup(
    kernels: NGramKernels,
    tables: Sequence[Sequence[Tensor]],
    idx_BS: Tensor,
    last: int,
    model_B: Tensor | None,
    *,
    vocab_size: int,
    rest_is_uniform: bool,
) -> tuple[Tensor, Tensor]:
    """Probabilities and backoff weights after the last T positions; see `NGramLanguageModel`.

    `tables` holds (keys, first, kept, back) for each order. Shapes: [B,S] -> [B,T,V], [B,T,N].
    """
    (B, S), N = idx_BS.shape, len(tables)
    pointers = (Table * N)(*(tuple(map(torch.Tensor.data_ptr, each)) for each in tables))
    tokens = idx_BS.contiguous()
    models = None if model_B is None else model_B.contiguous()
    p_BTV = torch.empty(B, last, vocab_size)
    back_BTN = torch.empty(B, last, N)
    call = Lookup(
        B, S, last, vocab_size, N, rest_is_uniform, torch.get_num_threads(), pointers,
        tokens.data_ptr(), None if models is None else models.data_ptr(), p_BTV.data_ptr(),
        back_BTN.data_ptr(),
    )  # fmt: skip
    kernels.run("hornbook_lookup", call)
    return p_BTV, back_BTN


def mix(
    kernels: NGramKernels, idx_BS: Tensor, p_BTV: Tensor, log_strength_R: Tensor, shortest: int
) -> tuple[Tensor, Tensor]:
    """Mixed probabilities, differentiable in the strengths, and counts; see `ContextCounts`.

    Shapes: [B,S], [B,T,V], [R] -> [B,T,V], [B,T,R].
    """
    return MixFunction.apply(kernels, shortest, idx_BS, p_BTV, log_strength_R)


class MixFunction(Function):
    """ngrams.c's mixing under torch's autograd: only the strengths have a gradient."""

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ARG004 (torch's own signature)
        ctx, kernels, shortest, idx_BS, p_BTV, log_strength_R = args
        (B, T, V), S, R = p_BTV.shape, idx_BS.size(1), len(log_strength_R)
        tokens, p_BTV, strength_R = idx_BS.contiguous(), p_BTV.contiguous(), log_strength_R.exp()
        mixed_BTV, came_BTR = torch.empty_like(p_BTV), torch.empty(B, T, R)
        call = Mixing(
            B, S, T, V, torch.get_num_threads(), shortest, R, tokens.data_ptr(),
            p_BTV.data_ptr(), strength_R.data_ptr(), mixed_BTV.data_ptr(), came_BTR.data_ptr(),
        )  # fmt: skip
        kernels.run("hornbook_mix", call)
        ctx.mark_non_differentiable(came_BTR)
        ctx.kernels, ctx.call, ctx.read = kernels, call, (tokens, p_BTV, strength_R, came_BTR)
        return mixed_BTV, came_BTR

    @staticmethod
    @once_differentiable
    # It forgets the names of parameters.
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        d_mixed_BTV = grad_outputs[0].contiguous()
        pieces = ctx.kernels.library.hornbook_pieces(ctypes.byref(ctx.call))
        d_log_strengths = torch.zeros(pieces, ctx.call.lengths, dtype=torch.float64)
        ctx.call.d_mixed = d_mixed_BTV.data_ptr()
        ctx.call.d_log_strengths = d_log_strengths.data_ptr()
        ctx.kernels.run("hornbook_mix", ctx.call)
        return None, None, None, None, d_log_strengths.sum(0).float()
