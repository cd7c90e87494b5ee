"""Compiles what a training will need in the background, while torch is imported."""

import threading
from contextlib import suppress

from hornbook.kernels.library import (
    DECODER,
    NGRAMS,
    NativeUnavailableError,
    processor_has,
    shared_library,
    training_kernels_pay,
    training_sources,
)


def compile_ahead() -> None:
    """Start compiling all kernels; whoever asks for one then waits for it.

    It takes 3 s of one core, once on a machine, which importing torch leaves free.
    """
    wanted = [NGRAMS, DECODER]
    if training_kernels_pay():
        precision = "bfloat16" if processor_has("avx512_bf16") else "float32"
        wanted.insert(0, training_sources(precision))

    def compile_all() -> None:
        for sources in wanted:
            with suppress(NativeUnavailableError):  # Whoever asks for it gets the reason.
                shared_library(sources)

    threading.Thread(target=compile_all, daemon=True).start()
