"""Draws the tokens of texts with sampler.c; `infer.sampling` is the reference.

Shapes in names: R rows (texts generated together), V vocabulary.
"""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from hornbook.config import SamplingConfig
from hornbook.infer.sampling import not_numbers
from hornbook.kernels.library import shared_library
from hornbook.kernels.recipe import SAMPLER

# sampler.c's Setting and Text.
SETTING, TEXT = struct.Struct("6d4q"), struct.Struct("4q")
NO_TEXT = bytes(TEXT.size)


class Packed(NamedTuple):
    """Settings as sampler.c reads them; `setting` has the addresses of the arrays."""

    setting: bytes
    arrays: tuple[NDArray[np.int32], NDArray[np.float64]]

    @classmethod
    def of(cls, sampling: SamplingConfig) -> Self:
        """The settings of a generation."""
        biased = np.array([*sampling.logit_bias], np.int32)
        bias = np.array([*sampling.logit_bias.values()], np.float64)
        setting = SETTING.pack(
            sampling.temperature, sampling.min_p, sampling.top_p, sampling.repetition_penalty,
            sampling.presence_penalty, sampling.frequency_penalty, sampling.top_k,
            len(biased), biased.ctypes.data, bias.ctypes.data,
        )  # fmt: skip
        return cls(setting, (biased, bias))


def pack_text(tokens: array[int], context: int, generated: int) -> bytes:
    """A text with penalties as sampler.c reads it, until a token is added to it.

    The repetition penalty is for the tokens from `context` on, the presence and frequency penalties
    are for those from `generated` on.
    """
    return TEXT.pack(tokens.buffer_info()[0], len(tokens), context, generated)


class NativeSampler:
    """Draws the next tokens of texts.

    Raises: NativeUnavailableError where there is no C compiler.
    """

    def __init__(self) -> None:
        self._draw = shared_library(SAMPLER).handle.hornbook_draw
        self._draw.argtypes = [
            ctypes.c_void_p, *[ctypes.c_int32] * 2, *[ctypes.c_char_p] * 2, *[ctypes.c_void_p] * 2
        ]  # fmt: skip

    def draw(
        self,
        logits_RV: NDArray[np.float32],
        settings: Sequence[bytes],
        texts: Sequence[bytes],
        uniform_R: Sequence[float],
    ) -> list[int]:
        """A token for each row: by its settings, its text and a number in [0, 1).

        Raises: CheckpointError for logits that are not numbers.
        """
        R, V = logits_RV.shape
        logits_RV = np.ascontiguousarray(logits_RV, np.float32)
        uniforms, tokens = array("d", uniform_R), array("i", bytes(4 * R))
        failed = self._draw(
            logits_RV.ctypes.data, R, V, b"".join(settings), b"".join(texts),
            uniforms.buffer_info()[0], tokens.buffer_info()[0],
        )  # fmt: skip
        if failed == 1:
            raise not_numbers()
        if failed:
            raise MemoryError("no memory to draw tokens")
        return tokens.tolist()
