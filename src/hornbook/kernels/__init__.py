"""Operations in C. Their PyTorch forms stand with those who call them.

Nothing here imports torch but `training` and `ngrams`, which work on its tensors, and `runtime`.
"""

from hornbook.kernels.ahead import compile_ahead
from hornbook.kernels.decoder import decoder_library
from hornbook.kernels.library import NativeUnavailableError
from hornbook.kernels.recipe import compiler

__all__ = [
    "NativeUnavailableError",
    "compile_ahead",
    "compiler",
    "decoder_library",
]
