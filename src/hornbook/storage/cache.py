"""The user's cache: folders that appear whole or not at all, with every file's hash beside it.

    <cache>/tokens/<fingerprint>/    train.npy validation.npy manifest.json
    <cache>/tokens/.partial-<fingerprint>/    the same under way, to be gone on with after a kill

A folder is used only when each file has the size and the SHA-256 that its manifest records. That
reads the file once: 1.3 s for 2 GB, and a flipped bit is found whenever it flipped, which trusting
size and time of a file checked before would miss. What was used longest ago is removed when a new
folder takes all of them together above ``MOST_BYTES``.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hornbook.errors import HornbookWarning, shown
from hornbook.storage.files import open_regular, read_json

MOST_BYTES = 10 * 10**9
MANIFEST = "manifest.json"
_PARTIAL = ".partial-"
_LOCK = ".lock"


class DamagedCacheWarning(HornbookWarning):
    """A folder of the cache failed its check and is made again."""

    label = "warning"


def cache_folder() -> Path:
    """Where downloads and token arrays are kept: $HORNBOOK_CACHE_DIR, or the user's cache."""
    from platformdirs import user_cache_path

    named = os.environ.get("HORNBOOK_CACHE_DIR")
    return Path(named) if named else user_cache_path("hornbook")


def is_sound(folder: Path) -> bool:
    """Whether a folder is there with every file as recorded; a damaged one is warned of."""
    if not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises where it may not look
        return False
    if damage := _damage(folder):
        warnings.warn(f"{folder}: {damage}; it is made again", DamagedCacheWarning, stacklevel=3)
        return False
    with suppress(OSError):
        os.utime(folder / MANIFEST)  # used now, so the last to be removed
    return True


@contextmanager
def fill(folder: Path) -> Iterator[Path]:
    """A place to write a folder's files, which then appears under its name, hashed, all at once.

    Whoever is interrupted or killed leaves the place to the next attempt, which finds the files
    written so far in it; an error removes it. Of two at a time, the second gets a place of its own.
    Raises: OSError when the cache cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = folder.parent / f"{_PARTIAL}{folder.name}"
    place.mkdir(exist_ok=True)
    with (place / _LOCK).open("w") as lock:
        if not _claim(lock.fileno()):
            place = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_PARTIAL))
        try:
            yield place
            names = sorted(path.name for path in place.iterdir() if path.name != _LOCK)
            manifest = {name: _facts(place / name) for name in names}
            with (place / MANIFEST).open("w", encoding="utf-8") as file:
                json.dump(manifest, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            (place / _LOCK).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            place.rename(folder)
        except Exception:
            shutil.rmtree(place, ignore_errors=True)
            raise
    with suppress(OSError):
        prune(folder)


def prune(newest: Path, most_bytes: int = MOST_BYTES) -> None:
    """Remove the neighbours of a folder, the longest unused first, while all are too large."""
    found: list[tuple[float, int, Path]] = []
    for folder in newest.parent.iterdir():
        with suppress(OSError):
            files = [path.stat() for path in folder.iterdir()]
            used = max((file.st_mtime for file in files), default=0.0)
            found.append((used, sum(file.st_size for file in files), folder))
    total = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found):
        if total > most_bytes and folder != newest:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


def _damage(folder: Path) -> str:
    """What is wrong with a folder, in a few words; "" for nothing."""
    try:
        manifest = read_json(folder / MANIFEST)
        wrong = [name for name in manifest if _facts(folder / name) != manifest[name]]
    except OSError as error:
        return f"{shown(Path(error.filename or folder).name)}: {error.strerror}"
    except (ValueError, TypeError, KeyError):
        return f"{MANIFEST} is not one"
    if wrong:
        return f"{shown(wrong[0])} is not what was written"
    return "" if manifest else "nothing in it"


def _facts(path: Path) -> dict[str, object]:
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _claim(descriptor: int) -> bool:
    """Lock a file for as long as it is open; the system unlocks it however its process ends."""
    try:
        import fcntl
    except ImportError:  # Windows: every attempt starts in a place of its own
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
