"""C files as a loaded library: built into the wheel, or compiled on first use and kept.

    kernels/built/    <target>/<library>.so, manifest.json      in an installed wheel
    <cache>/native/<key>/    library.so, its sources, manifest.json

A library of the wheel is loaded when it has the SHA-256 of the manifest and was made from the
sources that stand beside it. The key in the cache is a hash of all that a library depends on:
sources, flags, compiler; it is loaded only when nobody else can write there.
"""

import ctypes
import hashlib
import json
import os
import platform
import subprocess
import threading
import warnings
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from hornbook.errors import HornbookError, HornbookWarning
from hornbook.kernels import processor
from hornbook.kernels.recipe import HERE, Sources, Target, command, compiler, fingerprint
from hornbook.language import msg
from hornbook.storage import cache

COMPILE_SECONDS = 120.0
ONE_AT_A_TIME = threading.Lock()
BUILT = HERE / "built"


class NativeUnavailableError(HornbookError):
    """What is written in C cannot be had here; torch does it instead."""


class DamagedKernelsWarning(HornbookWarning):
    """A library that came with hornbook is damaged, or of another version."""

    label = "warning"


class Library(NamedTuple):
    """A loaded library: for which kind of processor, and where it came from."""

    handle: ctypes.CDLL
    target: str
    origin: str


@lru_cache
def shared_library(sources: Sources) -> Library:
    """The library for this processor: the wheel's, or one kept in the cache folder.

    Raises: NativeUnavailableError with the reason in one line.
    """
    if sources.precision == "bfloat16" and not processor.multiplies_bfloat16():
        raise NativeUnavailableError(
            msg("this CPU has no bfloat16 instructions that the C kernels use")
        )
    target = processor.target()
    with ONE_AT_A_TIME:
        if found := library_of_wheel(sources, target):
            return found
        return load_compiled(cache.cache_folder() / "native", compiler(), sources, target)


@lru_cache  # tried again by whoever then uses PyTorch, a damaged one would be reported again
def library_of_wheel(sources: Sources, target: Target) -> Library | None:
    """The library that was built into this installation; see `load_built`."""
    return load_built(BUILT, sources, target)


def load_built(folder: Path, sources: Sources, target: Target) -> Library | None:
    """The library that was built into the wheel; None where there is none that can be used.

    A damaged one is reported in a warning.
    """
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return None
    name = f"{target.name}/{sources.name}.so"
    try:
        described = json.loads(manifest.read_text(encoding="utf-8"))
        entry = described["libraries"].get(name)
        if entry is None:
            return None
        if entry["fingerprint"] != fingerprint(sources, target):
            damage = msg("is of another version of hornbook")
        elif entry["sha256"] != hashlib.sha256((folder / name).read_bytes()).hexdigest():
            damage = msg("is not what was built")
        else:
            origin = msg("built into the wheel by {compiler}", compiler=described["compiler"])
            return Library(ctypes.CDLL(str(folder / name)), target.name, origin)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        damage = msg("cannot be read")
    warnings.warn(
        msg(
            "{folder} {damage}, so it is not used; reinstall hornbook",
            folder=folder / name,
            damage=damage,
        ),
        DamagedKernelsWarning,
        stacklevel=3,
    )
    return None


def load_compiled(kept: Path, found: str | None, sources: Sources, target: Target) -> Library:
    """The library from a folder of kept ones; compiled if need be, which takes a second or two.

    Raises: NativeUnavailableError with the reason in one line.
    """
    if found is None:
        raise NativeUnavailableError(
            msg(
                "this installation has no C kernels for {processor} processors, and found no C "
                "compiler (cc, gcc or clang)",
                processor=target.name,
            )
        )
    try:
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        if written_by_others(kept):
            raise NativeUnavailableError(
                msg(
                    "{kept} can be written by others, so nothing is loaded from it; remove it",
                    kept=kept,
                )
            )
        folder = kept / key(sources, target, found)
        if not cache.is_sound(folder):
            build(sources, target, found, folder)
        handle = ctypes.CDLL(str(folder / "library.so"))
    except OSError as error:
        raise NativeUnavailableError(
            msg("cannot keep or load hornbook's C: {error}", error=error)
        ) from None
    origin = msg("compiled on first use by {compiler}", compiler=found)
    return Library(handle, target.name, origin)


def written_by_others(folder: Path) -> bool:
    """Whether other users may write to a folder, by POSIX permissions; Windows has none."""
    owner = getattr(os, "getuid", None)
    facts = folder.stat()
    return owner is not None and (facts.st_uid != owner() or bool(facts.st_mode & 0o022))


def openmp() -> int:
    """Where torch's OpenMP starts its threads: the `parallel` of threads.h.

    Raises: NativeUnavailableError where torch has another, or has not been imported.
    """
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        raise NativeUnavailableError(
            msg("torch's OpenMP is not one that C can call here")
        ) from None
    return ctypes.cast(parallel, ctypes.c_void_p).value or 0


def key(sources: Sources, target: Target, found: str) -> str:
    """A name for the library of these sources, target and compiler.

    A compiler goes by its file's size and time: asking it for its version would take a process.
    """
    binary = Path(found).resolve()
    stat = binary.stat()
    compiled_by = f"{binary} {stat.st_size} {stat.st_mtime_ns}"
    return fingerprint(sources, target, compiled_by, platform.machine())


def build(sources: Sources, target: Target, found: str, folder: Path) -> None:
    """Compile into a folder of the cache.

    Raises: NativeUnavailableError with the compiler's first complaint; OSError.
    """
    with cache.fill(folder) as place:
        for name, contents in sources.contents().items():
            (place / name).write_bytes(contents)
        try:
            done = subprocess.run(  # noqa: S603 (the user's own compiler)
                command(found, sources, target, "library.so"),
                cwd=place, capture_output=True, timeout=COMPILE_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise NativeUnavailableError(
                msg(
                    "{found} took over {compile_seconds:.0f} s",
                    found=found,
                    compile_seconds=COMPILE_SECONDS,
                )
            ) from None
        if done.returncode:
            complaint = done.stderr.decode(errors="replace").strip().partition("\n")[0]
            raise NativeUnavailableError(
                msg(
                    "{found} failed on {file}: {complaint}",
                    found=found,
                    file=sources.files[0],
                    complaint=complaint,
                )
            )
