"""A lock that gives a folder one writer; the system releases it when the process ends."""

import errno
import os
import socket
import weakref
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from hornbook.errors import CheckpointError, reason
from hornbook.language import msg

try:
    import fcntl
except ImportError:
    fcntl = None
try:
    windows: Any = import_module("msvcrt")
except ImportError:
    windows = None

LOCK = ".lock"
# Some network file systems have no locks; two writers are possible there.
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}
# Windows locks bytes, and nobody else can read a locked one: this one is past the holder's name.
FAR = 1 << 30
TRAINING = msg("is training it; a run has one writer at a time")


def take(descriptor: int) -> None:
    """Lock an open file. Raises: OSError, ENOLCK on a system without locks."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif windows is not None:
        os.lseek(descriptor, FAR, os.SEEK_SET)
        try:
            windows.locking(descriptor, windows.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        raise OSError(errno.ENOLCK, "no locks")


class Lock:
    """A system lock on a folder's `.lock`, until `release` or the end of this object.

    ``with lock:`` blocks can be nested; the outermost one releases. The file names its holder for
    the error message of a second process; its existence alone does not mean that it is locked.
    """

    def __init__(self, folder: Path, name: str = LOCK, held: str = TRAINING) -> None:
        self.path, self.held = folder / name, held
        self.finalizer: weakref.finalize[..., Lock] | None = None
        self.depth = 0

    def __enter__(self) -> Self:
        self.acquire()
        self.depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if not self.depth:
            self.release()

    def acquire(self) -> None:
        """Take the lock, unless this object has it. Raises: CheckpointError with its holder."""
        if self.finalizer is not None and self.finalizer.alive:
            return
        try:
            # In a downloaded folder this could be a link to a file of the user's.
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise CheckpointError(
                msg(
                    "{parent}: cannot write here: {why}",
                    parent=self.path.parent,
                    why=reason(error),
                )
            ) from None
        try:
            take(descriptor)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                holder = os.read(descriptor, 200).decode(errors="replace") or msg("another process")
                os.close(descriptor)
                raise CheckpointError(
                    msg(
                        "{parent}: {holder} {held}",
                        parent=self.path.parent,
                        holder=holder,
                        held=self.held,
                    )
                ) from None
        with suppress(OSError):  # On a full disk only the name in the message is missing.
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self.finalizer = weakref.finalize(self, os.close, descriptor)

    def release(self) -> None:
        """Release the lock."""
        if self.finalizer is not None:
            self.finalizer()
