"""What a network's training step is made of, in C: a block there and back, and Muon's update.

Numbers go by their addresses: torch is not needed here. `models.block_in_c` and `muon` call it.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from hornbook.config import ModelConfig
from hornbook.kernels.library import Sources, openmp, processor_has, shared_library

FILES = ("block.c", "muon.c", "products.h", "threads.h", "vectors.h")
# How many numbers a word of 32 bits has.
PACKED = {"float32": 1, "bfloat16": 2}
N_WEIGHTS = 11
# What widths are multiples of: the columns of a panel, and a vector.
PANEL, VECTOR = 32, 16
# Where vectors are narrower gcc keeps the sums of products in memory: a step takes 4 times torch's
# time (docs/experiments.md).
WIDE = "avx512f"


class BlockPass(ctypes.Structure):
    """block.c's Block."""

    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in ("rows", "length", "width", "n_head", "head_width", "mlp_width")
        ),
        *((name, ctypes.c_int32) for name in ("threads", "dropped")),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("x", "noise", "cosines", "sines")),
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


class Kernels(NamedTuple):
    """block.c and muon.c for one precision, and the threads of torch's OpenMP to run them."""

    library: ctypes.CDLL
    parallel: int

    def kept_numbers(self, block: BlockPass) -> int:
        """How many numbers a block keeps between its two passes."""
        return self.library.hornbook_kept_numbers(ctypes.byref(block))

    def forward(self, block: BlockPass) -> None:
        """Fill `y` and `kept` from `x`."""
        self._run("hornbook_forward", block)

    def backward(self, block: BlockPass) -> None:
        """Fill `dx` and `gradients` from `dy`, `x` and `kept`."""
        self._run("hornbook_backward", block)

    def move(self, step: MuonStep, matrices: Sequence[Matrix]) -> None:
        """One step of Muon for all matrices."""
        step.matrices = (Matrix * len(matrices))(*matrices)
        step.count = len(matrices)
        self._run("hornbook_muon", step)

    def _run(self, name: str, asked: BlockPass | MuonStep) -> None:
        asked.parallel = self.parallel
        if getattr(self.library, name)(ctypes.byref(asked)):
            raise MemoryError("no memory for a step")


def sources(precision: str) -> Sources:
    """What trains in this precision."""
    return Sources(FILES, (f"-DPACK={PACKED[precision]}",))


@lru_cache
def kernels(precision: str) -> Kernels:
    """What trains in float32 or bfloat16; torch must have been imported.

    Raises: NativeUnavailableError with the reason in one line.
    """
    library = shared_library(sources(precision))
    library.hornbook_kept_numbers.restype = ctypes.c_int64
    return Kernels(library, openmp())


def is_worth_it() -> bool:
    """Whether C trains faster than torch on this processor."""
    return processor_has(WIDE)


def obstacle(model: ModelConfig) -> str:
    """Why block.c cannot train a model; empty where it can."""
    if not model.spec.c_kernels:
        return f"only a gpt's blocks are written in C, and model = {model.model!r}"
    if model.n_embd % PANEL or model.head_width % VECTOR:
        return (
            f"in C n_embd must be a multiple of {PANEL} and a head's width one of {VECTOR}; they "
            f"are {model.n_embd} and {model.head_width}"
        )
    return ""
