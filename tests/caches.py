"""Cache folders of tests: each test's own, but for the compiled C, which all of them share.

Compiling it takes several seconds of a core, and dozens of tests begin with an empty cache. It is
kept beside pytest's own cache, under the hash of its sources, as in a user's cache.
"""

import time
from contextlib import suppress
from pathlib import Path

from hornbook.errors import CheckpointError
from hornbook.kernels import processor
from hornbook.kernels.library import NativeUnavailableError, load_compiled, shared_library
from hornbook.kernels.recipe import LIBRARIES, compiler
from hornbook.storage.lock import Lock

SHARED = Path(__file__).parents[1] / ".pytest_cache" / "compiled"
NATIVE = SHARED / "native"


def cache_in(folder: Path) -> str:
    """`cache` in a test's folder, for HORNBOOK_CACHE_DIR; made where it is not there."""
    cache = folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    NATIVE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(OSError):  # it is there; or the system has no links, and C is compiled again
        (cache / "native").symlink_to(NATIVE)
    return str(cache)


def compile_once() -> None:
    """Compile all C that is not kept yet, and load it; HORNBOOK_CACHE_DIR must be SHARED.

    Several workers share the work: each compiles what no other one is compiling.
    """
    NATIVE.mkdir(mode=0o700, parents=True, exist_ok=True)
    missing = list(LIBRARIES)
    while missing:
        for sources in list(missing):
            with suppress(CheckpointError), Lock(SHARED, f"{sources.name}.lock"):
                with suppress(NativeUnavailableError):
                    load_compiled(NATIVE, compiler(), sources, processor.target())
                missing.remove(sources)
        time.sleep(0.02)
    for sources in LIBRARIES:
        with suppress(NativeUnavailableError):
            shared_library(sources)
