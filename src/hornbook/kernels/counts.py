"""Counts beside a network, in C: what a text's n-grams say, and the runs that come again.

Numbers go by their addresses: torch is not needed here. `models.counts_in_c` calls it.
"""

import ctypes
from functools import lru_cache
from typing import NamedTuple

from hornbook.kernels.library import Sources, openmp, shared_library

SOURCES = Sources(("counts.c", "threads.h"))


class Table(ctypes.Structure):
    """counts.c's Table."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("keys", "first", "kept", "back"))


class Reading(ctypes.Structure):
    """counts.c's Reading."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rows", "length", "last", "vocab_size")),
        *((name, ctypes.c_int32) for name in ("order", "uniform", "threads")),
        ("tables", ctypes.POINTER(Table)),
        *((name, ctypes.c_void_p) for name in ("tokens", "models", "p", "shares", "parallel")),
    )


class Mixing(ctypes.Structure):
    """counts.c's Mixing."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rows", "length", "last", "vocab_size", "threads")),
        *((name, ctypes.c_int32) for name in ("shortest", "lengths")),
        *((name, ctypes.c_void_p) for name in ("tokens", "p", "strengths", "mixed", "came")),
        *((name, ctypes.c_void_p) for name in ("d_mixed", "d_log_strengths", "parallel")),
    )


class CountsInC(NamedTuple):
    """counts.c, and the threads of torch's OpenMP to run it."""

    library: ctypes.CDLL
    parallel: int

    def read(self, reading: Reading) -> None:
        """Fill `p` and `shares`.

        Raises: IndexError for a token outside the vocabulary.
        """
        reading.parallel = self.parallel
        if self.library.hornbook_read_counts(ctypes.byref(reading)):
            raise IndexError(f"expected tokens below {reading.vocab_size}")

    def stretches(self, mixing: Mixing) -> int:
        """How many rows of gradients `mix` gives back."""
        return int(self.library.hornbook_stretches(ctypes.byref(mixing)))

    def mix(self, mixing: Mixing) -> None:
        """Fill `mixed` and `came`; with `d_mixed`, `d_log_strengths`.

        Raises: IndexError for a token outside the vocabulary.
        """
        mixing.parallel = self.parallel
        if self.library.hornbook_mix(ctypes.byref(mixing)):
            raise IndexError(f"expected tokens below {mixing.vocab_size}")


@lru_cache
def counts_in_c() -> CountsInC:
    """The library; torch must have been imported.

    Raises: NativeUnavailableError with the reason in one line.
    """
    return CountsInC(shared_library(SOURCES), openmp())
