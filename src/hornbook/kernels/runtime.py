"""How this process runs: torch's allocator, determinism and compiler, and signals held back."""

import ctypes
import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch

from hornbook import cores
from hornbook.kernels.waiting import yield_when_busy

# Of these weights, gradients and two moments are 0.8 GB.
LARGE_PARAMETERS = 50_000_000


def keep_freed_memory(parameters: int = 0) -> None:
    """Tell glibc to keep freed memory for the next step; do nothing elsewhere.

    By default glibc returns large blocks to the system, which clears them before it lends them
    again: a compiled step of the default network takes 7% longer, an eager one up to 6%. A network
    of so many `parameters` that memory counts for more returns blocks of 8 MB: what is kept of them
    are holes between other blocks, which are too small for the next ones.
    """
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    with suppress(AttributeError):
        mallopt = ctypes.pythonapi.mallopt  # as this process has it: no library is opened
        mallopt(mmap_threshold, 1 << 23 if parameters > LARGE_PARAMETERS else 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)
        mallopt(top_pad, 1 << 26)


def give_back_freed_memory(parameters: float = math.inf) -> None:
    """Return the freed memory that `keep_freed_memory` has kept; do nothing outside of glibc.

    Of a network of fewer `parameters` than LARGE_PARAMETERS it is kept for the next step.
    """
    if parameters > LARGE_PARAMETERS:
        with suppress(AttributeError):
            ctypes.pythonapi.malloc_trim(0)


def default_threads() -> int:
    """torch's own number of threads, which knows of no cgroup quota, within what may be used."""
    return min(torch.get_num_threads(), cores.usable(requested="").count)


def share_cores(threads: int = 0) -> None:
    """Set torch's threads (0: the default), and have them yield while other programs compute."""
    wanted = threads or default_threads()
    if wanted != torch.get_num_threads():
        torch.set_num_threads(wanted)
    yield_when_busy(wanted)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside, torch uses only algorithms that give the same bits each time.

    On a CPU this changed no bit of gpt and layernorm, nor their speed; some of a GPU's need it.
    """
    before = torch.get_deterministic_debug_mode()
    settings: Any = torch.utils.deterministic
    filling = settings.fill_uninitialized_memory
    set_deterministic("error" if wanted else "default")
    # Otherwise torch.empty would be filled with NaN first, against errors that are not ours.
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        set_deterministic(before)
        settings.fill_uninitialized_memory = filling


def set_deterministic(mode: int | str) -> None:
    """Set torch's deterministic mode, and its compiler's where the compiler is in use.

    torch.use_deterministic_algorithms imports the compiler; this does not.
    """
    torch.set_deterministic_debug_mode(mode)
    if compiler_in_use():
        torch.use_deterministic_algorithms(
            torch.are_deterministic_algorithms_enabled(),
            warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
        )


@contextmanager
def eagerly() -> Iterator[None]:
    """Inside, compiled modules run uncompiled: compiling for other shapes does not pay.

    Where nothing was compiled, torch's compiler is not even imported.
    """
    with torch.compiler.set_stance("force_eager") if compiler_in_use() else nullcontext():
        yield


def compiler_in_use() -> bool:
    """Whether anything has imported torch's compiler, which takes 1.4 s."""
    return "torch._dynamo" in sys.modules


@contextmanager
def signals_held() -> Iterator[None]:
    """Let the body finish before SIGINT, SIGTERM or SIGHUP takes effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    previous = {
        number: signal.signal(number, lambda received, _: held.append(received))
        for name in names
        if signal.getsignal(number := getattr(signal, name)) is not None
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])
