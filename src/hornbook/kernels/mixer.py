"""The context mixer in C: mixer.c's structures and functions for ctypes."""

import ctypes
from functools import lru_cache

from hornbook.kernels.library import shared_library
from hornbook.kernels.recipe import MIXER

# mixer.c's places and columns are 32 bits.
MOST_TOKENS = 2**31 - 2**20


class Model(ctypes.Structure):
    """mixer.c's Model."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("vocab_size", "n_base")),
        *((name, ctypes.c_int32) for name in ("line_bits", "counter_bits")),
        ("shortest", ctypes.c_int32 * 2),
        *((name, ctypes.c_void_p) for name in ("lines", "weights", "base", "child")),
        *((name, ctypes.c_void_p) for name in ("bucket", "slot", "parent", "depth")),
        *((name, ctypes.c_void_p) for name in ("first", "path", "folded", "kind")),
    )


@lru_cache
def mixer_library() -> ctypes.CDLL:
    """The loaded library, with the types of its functions.

    Raises: NativeUnavailableError with the reason in one line.
    """
    library = shared_library(MIXER).handle
    pointer, reader = ctypes.POINTER(Model), ctypes.c_void_p
    for name, result, *arguments in (
        ("floats", ctypes.c_int64, pointer),
        ("squares", ctypes.c_int64, pointer),
        ("lines", ctypes.c_int64, pointer),
        ("begin", None, pointer),
        ("join", None, pointer),
        ("open", reader, pointer, ctypes.c_int),
        ("close", None, reader),
        ("reset", None, reader),
        ("read", ctypes.c_int, reader, reader, ctypes.c_int64, reader, reader),
        ("distribution", None, reader, reader, reader),
    ):
        function = getattr(library, f"hornbook_mixer_{name}")
        function.restype, function.argtypes = result, arguments
    return library
