"""The C kernels of a training step: a GPT block forward and backward, and Muon's update.

PyTorch passes over memory 75 times for one block forward and 116 times backward; block.c keeps that
data in the processor's caches. `models.gpt.Block` and `optim.muon.Muon` call this module, and their
PyTorch forms are the reference that the tests compare it with.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch.autograd.function import Function, once_differentiable

from hornbook.kernels.library import openmp, shared_library
from hornbook.kernels.recipe import TRAINING
from hornbook.language import msg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# A block's weights in block.c: how many before those of queries' and keys' norms, and after.
BEFORE_NORMS, NORMS, AFTER_NORMS = 5, 2, 4
N_WEIGHTS = BEFORE_NORMS + NORMS + AFTER_NORMS
# Widths are multiples of these: the columns of a panel, and a vector.
PANEL, VECTOR = 32, 16


class BlockPass(ctypes.Structure):
    """block.c's Block."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rows", "length", "width", "n_head", "n_kv_head")),
        *((name, ctypes.c_int32) for name in ("head_width", "mlp_width", "threads", "dropped")),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("x", "mask", "cosines", "sines")),
        ("weights", ctypes.c_void_p * N_WEIGHTS),
        *((name, ctypes.c_void_p) for name in ("kept", "y", "dy", "dx", "gradients", "parallel")),
    )


class Matrix(ctypes.Structure):
    """muon.c's Matrix."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rows", "columns")),
        *((name, ctypes.c_void_p) for name in ("weight", "momentum", "gradient")),
    )


class MuonStep(ctypes.Structure):
    """muon.c's Step."""

    _fields_ = (
        ("matrices", ctypes.POINTER(Matrix)),
        *((name, ctypes.c_int32) for name in ("count", "threads", "iterations")),
        *((name, ctypes.c_float) for name in ("momentum", "kept", "epsilon", "rate")),
        *((name, ctypes.c_float) for name in ("linear", "cubic", "quintic")),
        ("parallel", ctypes.c_void_p),
    )


class TrainingKernels(NamedTuple):
    """block.c and muon.c compiled for one precision, and the entry of torch's OpenMP."""

    library: ctypes.CDLL
    parallel: int

    def __deepcopy__(self, _memo: dict[int, object]) -> Self:
        """The same kernels: a library is loaded once in a process."""
        return self

    def run(self, name: str, call: BlockPass | MuonStep) -> None:
        """Call one kernel. Raises: MemoryError."""
        call.parallel = self.parallel
        if getattr(self.library, name)(ctypes.byref(call)):
            raise MemoryError("no memory for a training step")

    def move(self, step: MuonStep, matrices: Sequence[Matrix]) -> None:
        """Apply one step of Muon to all matrices. Raises: MemoryError."""
        step.matrices = (Matrix * len(matrices))(*matrices)
        step.count = len(matrices)
        step.threads = torch.get_num_threads()
        self.run("hornbook_muon", step)


@lru_cache
def training_kernels(precision: str) -> TrainingKernels:
    """The kernels for float32 or bfloat16, compiled where none came with hornbook.

    Raises: NativeUnavailableError with the reason in one line.
    """
    library = shared_library(TRAINING[precision]).handle
    library.hornbook_kept_numbers.restype = ctypes.c_int64
    return TrainingKernels(library, openmp())


class Sizes(NamedTuple):
    """The sizes of a block; `norms` is whether queries and keys are normalised."""

    width: int
    n_head: int
    n_kv_head: int
    head_width: int
    mlp_width: int
    epsilon: float
    norms: bool


def misfit(sizes: Sizes) -> str:
    """Why block.c cannot train a block of these sizes; empty where it can."""
    if sizes.width % PANEL or sizes.head_width % VECTOR:
        return msg(
            "the C kernels need n_embd to be a multiple of {panel} and a head's width one of "
            "{vector}; they are {width} and {head_width}",
            panel=PANEL,
            vector=VECTOR,
            width=sizes.width,
            head_width=sizes.head_width,
        )
    wide = {
        msg("all heads"): sizes.n_head * sizes.head_width,
        msg("all key-value heads"): sizes.n_kv_head * sizes.head_width,
        msg("the MLP"): sizes.mlp_width,
    }
    for name, width in wide.items():
        if width % PANEL:
            return msg(
                "the C kernels need multiples of {panel}, and the width of {name} is {width}",
                panel=PANEL,
                name=name,
                width=width,
            )
    return ""


class Operands(NamedTuple):
    """What a block's passes read that takes no gradient; `mask` is `models.gpt.random_bytes`."""

    kernels: TrainingKernels
    sizes: Sizes
    cosines: Tensor
    sines: Tensor
    mask: Tensor | None
    dropout: float


def block(x_BTC: Tensor, weights: Sequence[Tensor], operands: Operands) -> Tensor:
    """A transformer block, differentiable once in `x_BTC` and the weights.

    The weights come in the order of the block's parameters.
    Shapes: [B,T,C] -> [B,T,C]. Raises: MemoryError.
    """
    y_BTC: Tensor = BlockFunction.apply(operands, x_BTC, *weights)
    return y_BTC


class BlockFunction(Function):
    """block.c under torch's autograd."""

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ARG004 (torch's own signature)
        ctx, operands, x_BTC, *weights = args
        x_BTC = x_BTC.contiguous()
        (B, T, C), sizes = x_BTC.shape, operands.sizes
        call = BlockPass(
            B, T, C, sizes.n_head, sizes.n_kv_head, sizes.head_width, sizes.mlp_width,
            torch.get_num_threads(), round(256 * operands.dropout), sizes.epsilon,
        )  # fmt: skip
        addresses: list[int | None] = [weight.data_ptr() for weight in weights]
        if not sizes.norms:
            addresses[BEFORE_NORMS:BEFORE_NORMS] = [None] * NORMS
        call.weights[:] = addresses
        library = operands.kernels.library
        y_BTC = torch.empty_like(x_BTC)
        kept = torch.empty(library.hornbook_kept_numbers(ctypes.byref(call)), dtype=x_BTC.dtype)
        point(call, operands, x=x_BTC, kept=kept, y=y_BTC)
        operands.kernels.run("hornbook_forward", call)
        # What is kept too: recomputation drops what is saved so, and makes it again.
        ctx.save_for_backward(x_BTC, kept, *weights)
        ctx.call, ctx.operands = call, operands
        return y_BTC

    @staticmethod
    @once_differentiable
    # It forgets the names of parameters.
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        x_BTC, kept, *weights = ctx.saved_tensors
        (dy_BTC,) = (each.contiguous() for each in grad_outputs)
        dx_BTC = torch.empty_like(dy_BTC)
        sizes = [weight.numel() for weight in weights]
        gradients = torch.empty(sum(sizes))
        point(
            ctx.call, ctx.operands, x=x_BTC, kept=kept, dy=dy_BTC, dx=dx_BTC, gradients=gradients
        )  # fmt: skip
        ctx.operands.kernels.run("hornbook_backward", ctx.call)
        parts = zip(gradients.split(sizes), weights, strict=True)
        return None, dx_BTC, *(part.view_as(weight) for part, weight in parts)


def point(call: BlockPass, operands: Operands, **tensors: Tensor) -> None:
    """Set the addresses of tensors, by the names that block.c has for them."""
    read = {"cosines": operands.cosines, "sines": operands.sines, "mask": operands.mask}
    for name, tensor in (read | tensors).items():
        setattr(call, name, None if tensor is None else tensor.data_ptr())
