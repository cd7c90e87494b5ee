"""C files as a loaded library: compiled with the C compiler that is there, and kept.

    <cache>/native/<key>/    library.so, its sources, manifest.json

The key is a hash of all that the library depends on: sources, flags, compiler, processor. The
library is loaded only when it has the SHA-256 of the manifest and nobody else can write there.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from hornbook.errors import HornbookError
from hornbook.storage import cache

COMPILE_SECONDS = 120.0
ONE_AT_A_TIME = threading.Lock()


class NativeUnavailableError(HornbookError):
    """What is written in C cannot be had here; torch does it instead."""


@dataclass(frozen=True)
class Sources:
    """C files that make a library, the headers among them, and what they are compiled with."""

    files: tuple[str, ...]
    definitions: tuple[str, ...] = ()

    def contents(self) -> dict[str, bytes]:
        """Each file's bytes."""
        folder = files("hornbook.kernels")
        return {name: folder.joinpath(name).read_bytes() for name in self.files}


DECODER = Sources(("decoder.c", "vectors.h"))
NGRAMS = Sources(("ngrams.c", "threads.h"))
MIXER = Sources(("mixer.c", "vectors.h"))
# How many numbers a word of 32 bits holds.
PACKED = {"float32": 1, "bfloat16": 2}


def training_sources(precision: str) -> Sources:
    """The kernels of a training step in this precision."""
    files_ = ("block.c", "muon.c", "products.h", "threads.h", "vectors.h")
    return Sources(files_, (f"-DPACK={PACKED[precision]}",))


def training_kernels_pay() -> bool:
    """Whether the C kernels train faster than PyTorch on this processor: with AVX-512 alone.

    Without it gcc keeps the sums of products in memory, and a step takes 4 times as long as
    PyTorch's (docs/experiments.md).
    """
    return processor_has("avx512f")


def compiler() -> str | None:
    """The C compiler: $CC, or the first of cc, gcc and clang on the path; None without one."""
    wanted = os.environ.get("CC")
    names = [wanted] if wanted is not None else ["cc", "gcc", "clang"]
    return next(filter(None, map(shutil.which, names)), None)


def flags() -> list[str]:
    """What all is compiled with: for this very processor, with strict IEEE arithmetic."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    target = "-mcpu=native" if arm else "-march=native"
    return ["-std=gnu11", "-O3", target, "-fno-math-errno", "-shared", "-fPIC", "-pthread"]


@lru_cache
def shared_library(sources: Sources) -> ctypes.CDLL:
    """The library of this machine, kept in the cache folder.

    Raises: NativeUnavailableError with the reason in one line.
    """
    with ONE_AT_A_TIME:
        return load(cache.cache_folder() / "native", compiler(), sources)


def load(kept: Path, found: str | None, sources: Sources) -> ctypes.CDLL:
    """The library from a folder of kept ones; compiled if need be, which takes a second or two.

    Raises: NativeUnavailableError with the reason in one line.
    """
    if os.name != "posix":
        raise NativeUnavailableError(f"hornbook's C needs POSIX threads; this is {sys.platform}")
    if found is None:
        raise NativeUnavailableError("found no C compiler (cc, gcc or clang)")
    try:
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        if kept.stat().st_uid != os.getuid() or kept.stat().st_mode & 0o022:
            raise NativeUnavailableError(
                f"{kept} can be written by others, so nothing is loaded from it; remove it"
            )
        folder = kept / key(sources, found)
        if not cache.is_sound(folder):
            build(sources, found, folder)
        return ctypes.CDLL(str(folder / "library.so"))
    except OSError as error:
        raise NativeUnavailableError(f"cannot keep or load hornbook's C: {error}") from None


def openmp() -> int:
    """Where torch's OpenMP starts its threads: the `parallel` of threads.h.

    Raises: NativeUnavailableError where torch has another, or has not been imported.
    """
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        raise NativeUnavailableError("torch's OpenMP is not one that C can call here") from None
    return ctypes.cast(parallel, ctypes.c_void_p).value or 0


def key(sources: Sources, found: str) -> str:
    """A name for the library of these sources, compiler and processor.

    A compiler goes by its file's size and time: asking it for its version would take a process.
    """
    binary = Path(found).resolve()
    stat = binary.stat()
    compiled_by = f"{binary} {stat.st_size} {stat.st_mtime_ns}"
    facts = [compiled_by, *flags(), *sources.definitions, platform.machine()]
    made_of = [*sources.contents().values(), "\n".join([*facts, *processor_features()]).encode()]
    return hashlib.sha256(b"\0".join(made_of)).hexdigest()[:32]


def processor_features() -> list[str]:
    """What tells processors apart that share a cache folder over a network."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return [platform.processor()]
    wanted = ("model name", "flags", "Features", "CPU part")
    return sorted({line for line in lines if line.startswith(wanted)})


def processor_has(feature: str) -> bool:
    """Whether the processor names this among its features, as /proc/cpuinfo lists them."""
    return any(feature in line.split() for line in processor_features())


def build(sources: Sources, found: str, folder: Path) -> None:
    """Compile into a folder of the cache.

    Raises: NativeUnavailableError with the compiler's first complaint; OSError.
    """
    with cache.fill(folder) as place:
        for name, contents in sources.contents().items():
            (place / name).write_bytes(contents)
        compiled = [name for name in sources.files if name.endswith(".c")]
        command = [found, *flags(), *sources.definitions, *compiled, "-o", "library.so", "-lm"]
        try:
            done = subprocess.run(  # noqa: S603 (the user's own compiler)
                command, cwd=place, capture_output=True, timeout=COMPILE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise NativeUnavailableError(f"{found} took over {COMPILE_SECONDS:.0f} s") from None
        if done.returncode:
            complaint = done.stderr.decode(errors="replace").strip().partition("\n")[0]
            raise NativeUnavailableError(f"{found} failed on {compiled[0]}: {complaint}")
