"""decoder.c: a GPT's forward pass for generation, without torch.

The structures hold addresses. `infer.native_decoder` packs the weights and calls it.
"""

import ctypes
from contextlib import suppress
from typing import NamedTuple

from hornbook.kernels.library import NativeUnavailableError, shared_library
from hornbook.kernels.recipe import DECODER


class PackedMatrix(ctypes.Structure):
    """decoder.c's Matrix."""

    _fields_ = (
        ("panels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("inputs", ctypes.c_int32),
        ("count", ctypes.c_int32),
    )


class PackedLayer(ctypes.Structure):
    """decoder.c's Layer."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("attention_norm", "mlp_norm")),
        *((name, ctypes.c_void_p) for name in ("query_norm", "key_norm")),
        *((name, PackedMatrix) for name in ("qkv", "output", "gate", "up", "down")),
    )


class PackedModel(ctypes.Structure):
    """decoder.c's Model."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("vocab_size", "context_size", "n_layer")),
        *((name, ctypes.c_int32) for name in ("n_head", "n_kv_head", "width", "head_width")),
        *((name, ctypes.c_int32) for name in ("window", "kind", "threads", "rows")),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("embedding", "cosines", "sines", "norm", "layers")),
        ("logits", PackedMatrix),
        ("lanes_worth_threads", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
    )


class DecoderLibrary(NamedTuple):
    """The loaded library, and the bytes of a number: of a product's input, a key or a value."""

    handle: ctypes.CDLL
    number_bytes: int


def decoder_library(precision: str = "float32") -> DecoderLibrary:
    """The library for weights of this precision, with the types of its functions.

    Raises: NativeUnavailableError with the reason in one line.
    """
    number_bytes = 4
    library = None
    if precision == "bfloat16":
        with suppress(NativeUnavailableError):  # the other one multiplies such weights in float32
            library, number_bytes = shared_library(DECODER["bfloat16"]).handle, 2
    library = library or shared_library(DECODER["float32"]).handle
    library.hornbook_open.restype = ctypes.c_void_p
    library.hornbook_close.argtypes = [ctypes.c_void_p]
    library.hornbook_decode.argtypes = [
        *[ctypes.c_void_p] * 5, *[ctypes.c_int32] * 2, ctypes.c_void_p
    ]  # fmt: skip
    library.hornbook_copy.argtypes = [ctypes.c_void_p, *[ctypes.c_int32] * 3]
    return DecoderLibrary(library, number_bytes)
