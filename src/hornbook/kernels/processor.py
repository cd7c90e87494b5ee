"""What this processor is: its features, and the kind of compiled C that fits it."""

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from hornbook.kernels.recipe import TARGETS, Target

# What Windows numbers and macOS names, in Linux's words. Each AVX2 processor of Intel and AMD has
# the other features of x86-64-v3, and each AVX-512 processor of theirs since 2017 those of v4.
WINDOWS = {40: TARGETS[1].needs, 41: TARGETS[0].needs}
MACOS = {b"hw.optional.arm.FEAT_BF16": frozenset({"bf16"})}
# torch's own variable: what it keeps torch from using, hornbook's C does not use either.
LIMIT = "ATEN_CPU_CAPABILITY"


def features() -> frozenset[str]:
    """The processor's features as /proc/cpuinfo names them, within $ATEN_CPU_CAPABILITY."""
    limit = os.environ.get(LIMIT, "").lower()
    hidden = {"default": ("avx2", "avx512"), "avx2": ("avx512",)}.get(limit, ())
    return frozenset(each for each in present() if not each.startswith(hidden or ("\0",)))


@lru_cache
def present() -> frozenset[str]:
    """All of the processor's features; nothing where the system does not report them."""
    if sys.platform == "linux":
        return from_cpuinfo(Path("/proc/cpuinfo"))
    with suppress(AttributeError, OSError, TypeError):
        if sys.platform == "win32":
            return from_windows(ctypes.WinDLL("kernel32").IsProcessorFeaturePresent)
        return from_sysctl(ctypes.CDLL(None).sysctlbyname)
    return frozenset()


def from_cpuinfo(path: Path) -> frozenset[str]:
    """The features of a /proc/cpuinfo, x86's or Arm's."""
    lines: list[str] = []
    with suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    named = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(named, "").split())


def from_windows(is_present: Callable[[int], int]) -> frozenset[str]:
    """The features by Windows' IsProcessorFeaturePresent."""
    found = (needs for number, needs in WINDOWS.items() if is_present(number))
    return frozenset[str]().union(*found)


def from_sysctl(ask: Callable[..., Any]) -> frozenset[str]:
    """The features by macOS's sysctlbyname."""
    found: set[str] = set()
    for name, meant in MACOS.items():
        value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
        if ask(name, ctypes.byref(value), ctypes.byref(size), None, 0) == 0 and value.value:
            found |= meant
    return frozenset(found)


def machine() -> str:
    """The architecture, as Linux names it."""
    named = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(named, named)


def runnable() -> list[Target]:
    """The kinds of compiled C that this processor can run, the best first."""
    here, has = machine(), features()
    return [each for each in TARGETS if each.machine in (here, "") and each.needs <= has]


def target() -> Target:
    """The best of them."""
    return runnable()[0]


def multiplies_bfloat16() -> bool:
    """Whether the processor has an instruction for it that hornbook's C uses."""
    chosen = target().bfloat16
    return bool(chosen) and chosen[0] in features()
