"""The disk: every change a run makes to it goes through one small object, which can be replaced.

A test that wants a crash between two operations, a full disk or a lost write passes another Disk
in; nothing is patched.
"""

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hornbook.errors import CheckpointError

# Hidden, so that no reader takes them for what they are to become, or have been.
UNFINISHED, DISCARDED = ".writing-", ".discarded-"


class Disk:
    """The real disk. What changes it is eight operations, each of which may fail on its own:
    `write_some`, `sync`, `sync_folder`, `rename`, `unlink`, `remove_empty_folder`,
    `make_one_folder`, and the opening of a file; the others are made of these.

    Raises: OSError, as the system gives it.
    """

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Create or overwrite a file. The system has the bytes then; the disk may not yet."""
        self._put(path, data, os.O_TRUNC)

    def append(self, path: Path, data: bytes) -> None:
        """Add to the end of a file, made where it is missing."""
        self._put(path, data, os.O_APPEND)

    def write_some(self, descriptor: int, data: memoryview) -> int:
        """Write as much of `data` as the system takes at once; how much that was."""
        return os.write(descriptor, data)

    def sync(self, path: Path) -> None:
        """Wait until the disk has a file's bytes."""
        # Windows syncs only what is open for writing.
        _sync(path, os.O_RDWR)

    def sync_folder(self, path: Path) -> None:
        """Wait until the disk has a folder's names, where the system can."""
        if os.name == "posix":
            _sync(path, os.O_RDONLY)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder another name, in one stroke; a file there is replaced."""
        old.replace(new)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def remove_empty_folder(self, path: Path) -> None:
        """Remove a folder with nothing in it."""
        path.rmdir()

    def make_one_folder(self, path: Path) -> None:
        """Make a folder inside one that is there."""
        path.mkdir()

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it that are missing, and wait until the disk has them."""
        if path.is_dir():
            return
        self.make_folder(path.parent)
        with suppress(FileExistsError):
            self.make_one_folder(path)
        if not path.is_dir():
            raise FileExistsError(errno.EEXIST, "a file of that name is in the way", str(path))
        self.sync_folder(path.parent)

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder with all in it; what is not there is removed already."""
        if path.is_dir() and not path.is_symlink():
            for inner in sorted(path.iterdir()):
                self.remove(inner)
            self.remove_empty_folder(path)
        elif path.exists() or path.is_symlink():
            self.unlink(path)

    def discard(self, path: Path) -> None:
        """`remove`, but never to be seen half done: hidden in one stroke first."""
        hidden = path.with_name(f"{DISCARDED}{path.name}")
        self.remove(hidden)
        self.rename(path, hidden)
        self.remove(hidden)

    def sweep(self, folder: Path) -> None:
        """Remove what a crash left in a folder, of writing and of discarding."""
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.name.startswith((UNFINISHED, DISCARDED)):
                    self.remove(path)

    def _put(self, path: Path, data: bytes | memoryview, how: int) -> None:
        # A link is never written through: a run folder from elsewhere could aim it at any file.
        how |= getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                written = self.write_some(descriptor, rest)
                if not written:
                    raise OSError(errno.EIO, "the disk took nothing", str(path))
                rest = rest[written:]
        finally:
            os.close(descriptor)


DISK = Disk()


def _sync(path: Path, how: int) -> None:
    descriptor = os.open(path, how)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes | Iterable[bytes], disk: Disk = DISK) -> None:
    """Replace a file by `data`, or its pieces, in one stroke: readers see the old or the new one.

    Raises: CheckpointError with the path and the bytes when the disk refuses.
    """
    temporary = path.with_name(f"{UNFINISHED}{path.name}")
    size = 0
    try:
        for piece in [data] if isinstance(data, bytes) else data:
            write = disk.append if size else disk.write
            size += len(piece)
            write(temporary, piece)
        disk.sync(temporary)
        disk.rename(temporary, path)
        disk.sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            disk.remove(temporary)
        raise refused(path, size, error) from None


def refused(path: Path, size: int, error: OSError) -> CheckpointError:
    """What to raise when the disk did not take `size` bytes."""
    return CheckpointError(f"{path}: cannot write {size:,} bytes: {error.strerror or error}")
