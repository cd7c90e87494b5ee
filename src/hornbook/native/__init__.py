"""Decoding in C: the writing of a GPT without torch, compiled on first use."""

from hornbook.native.decoder import Decoder, Precision, Weights, cache_bytes, weight_names
from hornbook.native.library import NativeUnavailableError, compiler, library

__all__ = [
    "Decoder",
    "NativeUnavailableError",
    "Precision",
    "Weights",
    "cache_bytes",
    "compiler",
    "library",
    "weight_names",
]
