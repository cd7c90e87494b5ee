"""Bytes that can be read again and again: from memory, or from a file seen to be unchanged."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import weakref
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeAlias

from hornbook.errors import DataError, reason, shown

# What is not larger is read once and held; the rest is read from the disk each time it is needed.
MOST_HELD_BYTES = 1 << 26

# Size, device, inode, and the times of the last change to content and to anything else, in ns.
Signature: TypeAlias = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Held:
    """Bytes in memory; ``shown`` is what messages call them."""

    shown: str
    data: bytes = field(repr=False)

    def open(self) -> BinaryIO:
        """The bytes from their start."""
        return BytesIO(self.data)

    def check(self, file: BinaryIO) -> None:
        """Bytes in memory do not change."""


@dataclass(frozen=True)
class Stored:
    """A regular file as it was when first looked at; ``shown`` is what messages call it."""

    shown: str
    path: Path
    signature: Signature

    def open(self) -> BinaryIO:
        """The file from its start. Raises: DataError if it cannot be read or is another by now."""
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise cannot_read(self.path, error) from None
        try:
            self.check(file)
        except DataError:
            file.close()
            raise
        return file

    def check(self, file: BinaryIO) -> None:
        """See that the open file is still the same. Raises: DataError."""
        if signature_of(os.fstat(file.fileno())) != self.signature:
            raise DataError(f"{self.shown} was changed while it was being read: start again")


Source: TypeAlias = Held | Stored


def stored(path: Path, called: str | None = None) -> Stored:
    """A regular file, to be read later. Raises: DataError for all that is not one."""
    status = status_of(path)
    if status is None:
        raise DataError(f"cannot read {shown(path)}: it is not there any more")
    if stat.S_ISFIFO(status.st_mode):
        # Opening a pipe that nobody writes to would wait for ever.
        raise DataError(f"{shown(path)} is a pipe, not a file: pipe it into standard input with -")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"expected a file of text, but {shown(path)} is a device or a socket")
    return Stored(called or shown(path), path, signature_of(status))


def read_bytes(path: Path) -> bytes:
    """All bytes of a regular file. Raises: DataError for all that is not one."""
    source = stored(path)
    with source.open() as file:
        try:
            return file.read()
        except OSError as error:
            raise cannot_read(path, error) from None


def held(source: Stored) -> Held:
    """The bytes of a file, read now."""
    return Held(source.shown, read_bytes(source.path))


def kept(stream: BinaryIO, called: str) -> Source:
    """The rest of a stream that can be read but once: in memory, or if large in a temporary file.

    Raises: OSError if the stream cannot be read or the file cannot be written.
    """
    data = stream.read(MOST_HELD_BYTES + 1)
    if len(data) <= MOST_HELD_BYTES:
        return Held(called, data)
    number, name = tempfile.mkstemp(prefix="hornbook-")
    path = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            shutil.copyfileobj(stream, file, 1 << 20)
        source = stored(path, called)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    weakref.finalize(source, path.unlink, missing_ok=True)
    return source


def signature_of(status: os.stat_result) -> Signature:
    """What tells a file from another, and from itself before a change.

    The time of the last change of any kind cannot be set by hand, as that of the content can.
    """
    return status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def status_of(path: Path) -> os.stat_result | None:
    """What a path leads to, or None for nothing. Raises: DataError where that cannot be told."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise cannot_read(path, error) from None


def cannot_read(path: Path, error: OSError) -> DataError:
    """The error that says why a path cannot be read."""
    return DataError(f"cannot read {shown(path)}: {reason(error)}")
