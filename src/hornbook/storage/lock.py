"""One writer for a folder: a lock that its holder's end, however violent, lets go."""

import errno
import os
import socket
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Self

from hornbook.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows: there two writers are not kept apart.
    fcntl = None

LOCK = ".lock"
# Some network file systems have no locks; on them nobody is kept out.
NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}


class Lock:
    """A folder's `.lock`, held by the system for this object until `release`, or its end.

    ``with lock:`` holds it for what is inside, and lets it go; one inside another leaves that to
    the outermost. The file says who holds it, for the other's message; that it is there says
    nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self.held: weakref.finalize[..., Lock] | None = None
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
        """Hold the lock; where this object holds it already nothing happens.

        Raises: CheckpointError naming the process that holds it, or why nothing can be written.
        """
        if self.held is not None and self.held.alive:
            return
        try:
            # Whoever made the folder may have made this a link to something of ours.
            how = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(self.path, how, 0o666)
        except OSError as error:
            raise CheckpointError(
                f"{self.path.parent}: cannot write here: {error.strerror}"
            ) from None
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS_HERE:
                holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
                os.close(descriptor)
                raise CheckpointError(
                    f"{self.path.parent}: {holder} is training it; a run has one writer at a time"
                ) from None
        with suppress(OSError):  # A full disk keeps the name out of the message, no more.
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self.held = weakref.finalize(self, os.close, descriptor)

    def release(self) -> None:
        """Let the lock go."""
        if self.held is not None:
            self.held()
