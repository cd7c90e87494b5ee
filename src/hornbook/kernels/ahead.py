"""Loads what a training will need in the background, while torch is imported."""

import threading
from contextlib import suppress

from hornbook.kernels import processor
from hornbook.kernels.library import NativeUnavailableError, shared_library
from hornbook.kernels.recipe import DECODER, MIXER, NGRAMS, SAMPLER, TRAINING


def compile_ahead() -> None:
    """Start loading all kernels, or compiling them; whoever asks for one then waits for it.

    Compiling takes 5 s of one core, once on a machine, which importing torch leaves free.
    """
    wanted = [NGRAMS, DECODER["float32"], SAMPLER, MIXER, DECODER["bfloat16"]]
    if processor.target().trains_faster:
        precision = "bfloat16" if processor.multiplies_bfloat16() else "float32"
        wanted.insert(0, TRAINING[precision])

    def compile_all() -> None:
        for sources in wanted:
            with suppress(NativeUnavailableError):  # Whoever asks for it gets the reason.
                shared_library(sources)

    threading.Thread(target=compile_all, daemon=True).start()
