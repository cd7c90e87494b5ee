"""What is written in C, compiled on first use: a GPT's writing, without torch, and its training."""

from hornbook.kernels.ahead import compile_ahead
from hornbook.kernels.counts import CountsInC, Mixing, Reading, counts_in_c
from hornbook.kernels.decoder import decoder_library
from hornbook.kernels.library import NativeUnavailableError, compiler
from hornbook.kernels.training import (
    BlockPass,
    Kernels,
    Matrix,
    MuonStep,
    is_worth_it,
    kernels,
    obstacle,
)

__all__ = [
    "BlockPass",
    "CountsInC",
    "Kernels",
    "Matrix",
    "Mixing",
    "MuonStep",
    "NativeUnavailableError",
    "Reading",
    "compile_ahead",
    "compiler",
    "counts_in_c",
    "decoder_library",
    "is_worth_it",
    "kernels",
    "obstacle",
]
