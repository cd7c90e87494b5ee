"""Decoding in C: the writing of a GPT without torch, compiled on first use."""

from hornbook.native.decoder import Decoder, Precision, Weights, cache_bytes, weight_names
from hornbook.native.joint import JointDecoder, joint_weight_names
from hornbook.native.library import NativeUnavailableError, compiler, shared_library

__all__ = [
    "Decoder",
    "JointDecoder",
    "NativeUnavailableError",
    "Precision",
    "Weights",
    "cache_bytes",
    "compiler",
    "joint_weight_names",
    "shared_library",
    "weight_names",
]
