"""Operations in C, compiled on first use. Their PyTorch forms stand with those who call them.

Nothing here imports torch but `training` and `ngrams`, which work on its tensors, and `runtime`.
"""

from hornbook.kernels.ahead import compile_ahead
from hornbook.kernels.decoder import (
    Decoder,
    Precision,
    Weights,
    cache_bytes,
    decoder_library,
    weight_names,
)
from hornbook.kernels.joint import JointDecoder, joint_weight_names
from hornbook.kernels.library import NativeUnavailableError, compiler

__all__ = [
    "Decoder",
    "JointDecoder",
    "NativeUnavailableError",
    "Precision",
    "Weights",
    "cache_bytes",
    "compile_ahead",
    "compiler",
    "decoder_library",
    "joint_weight_names",
    "weight_names",
]
