"""Compiling ahead: what a training will ask for, while torch is being imported."""

import threading
from contextlib import suppress

from hornbook.kernels import counts, training
from hornbook.kernels.library import (
    DECODER,
    NativeUnavailableError,
    processor_has,
    shared_library,
)


def compile_ahead() -> None:
    """Begin to compile all that trains and writes, in the background; who asks for it then waits.

    The first time on a machine, 3 s of one core, which importing torch leaves free.
    """
    wanted = [counts.SOURCES, DECODER]
    if training.is_worth_it():
        precision = "bfloat16" if processor_has("avx512_bf16") else "float32"
        wanted.insert(0, training.sources(precision))

    def compile_all() -> None:
        for sources in wanted:
            with suppress(NativeUnavailableError):  # Who asks for it will be told.
                shared_library(sources)

    threading.Thread(target=compile_all, daemon=True).start()
