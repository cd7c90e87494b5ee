"""Disk operations: every change that a run makes goes through one small, replaceable object.

To simulate a crash between two operations, a full disk or a lost write, a test passes in another
Disk; nothing is patched.
"""

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hornbook.errors import CheckpointError, reason
from hornbook.language import msg

# Prefixes that hide files being written or removed from readers.
UNFINISHED, DISCARDED = ".writing-", ".discarded-"


class Disk:
    """The real disk. Eight operations change it, and each can fail separately: `write_some`,
    `sync`, `sync_folder`, `rename`, `unlink`, `remove_empty_folder`, `make_one_folder`, and opening
    a file. The other methods call these.

    Raises: OSError from the system.
    """

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Create or overwrite a file. The bytes are durable only after `sync`."""
        self._put(path, data, os.O_TRUNC)

    def append(self, path: Path, data: bytes | memoryview) -> None:
        """Append to a file, which is created if missing."""
        self._put(path, data, os.O_APPEND)

    def write_some(self, descriptor: int, data: memoryview) -> int:
        """Write a first part of `data`; returns the number of bytes written."""
        return os.write(descriptor, data)

    def sync(self, path: Path) -> None:
        """Make a file's bytes durable."""
        with path.open("rb+") as file:  # Windows syncs only files that are open for writing.
            os.fsync(file.fileno())

    def sync_folder(self, path: Path) -> None:
        """Make a folder's entries durable, if the system supports it."""
        if os.name == "posix":
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file or folder atomically; an existing file is replaced."""
        old.replace(new)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def remove_empty_folder(self, path: Path) -> None:
        path.rmdir()

    def make_one_folder(self, path: Path) -> None:
        """Make a folder in an existing one."""
        path.mkdir()

    def make_folder(self, path: Path) -> None:
        """Make a folder and its missing parents durably."""
        if path.is_dir():
            return
        self.make_folder(path.parent)
        with suppress(FileExistsError):
            self.make_one_folder(path)
        if not path.is_dir():
            raise FileExistsError(errno.EEXIST, msg("a file of that name is in the way"), str(path))
        self.sync_folder(path.parent)

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder with its contents; a missing path is no error."""
        if path.is_dir() and not path.is_symlink():
            for inner in sorted(path.iterdir()):
                self.remove(inner)
            self.remove_empty_folder(path)
        elif path.exists() or path.is_symlink():
            self.unlink(path)

    def discard(self, path: Path) -> None:
        """`remove`, but the path is hidden by a rename first, so nobody sees it half removed."""
        hidden = path.with_name(f"{DISCARDED}{path.name}")
        self.remove(hidden)
        self.rename(path, hidden)
        self.remove(hidden)

    def sweep(self, folder: Path) -> None:
        """Remove unfinished and discarded files that a crash left in a folder."""
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.name.startswith((UNFINISHED, DISCARDED)):
                    self.remove(path)

    def _put(self, path: Path, data: bytes | memoryview, how: int) -> None:
        # Links are not followed: in a downloaded run folder one could point to any file.
        how |= getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                written = self.write_some(descriptor, rest)
                if not written:
                    raise OSError(errno.EIO, msg("the disk accepted no bytes"), str(path))
                rest = rest[written:]
        finally:
            os.close(descriptor)


DISK = Disk()


def write_atomically(path: Path, data: bytes | Iterable[bytes], disk: Disk = DISK) -> None:
    """Replace a file by `data`, or its pieces, atomically: readers see the old or the new one.

    Raises: CheckpointError with the path and the size if the disk cannot be written.
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
    """The error for `size` bytes that could not be written."""
    return CheckpointError(
        msg(
            "{path}: cannot write {size:,} bytes: {why}",
            path=path,
            size=size,
            why=reason(error),
        )
    )
