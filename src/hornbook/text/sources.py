"""Sources of bytes that can be read repeatedly: memory, or a file that must not change."""

import os
import shutil
import stat
import tempfile
import weakref
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeAlias

from hornbook.errors import DataError, display_path, reason
from hornbook.language import msg
from hornbook.storage.objects import ObjectFile, open_object

# Smaller sources are read into memory once; larger ones are read from the disk each time.
MAX_IN_MEMORY_BYTES = 1 << 26

# Size, device, inode, and the times of the last change of content and of metadata, in ns.
Signature: TypeAlias = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class BytesSource:
    """Bytes in memory; messages call them ``name``."""

    name: str
    data: bytes = field(repr=False)

    def open(self) -> BinaryIO:
        """A stream of the bytes."""
        return BytesIO(self.data)

    def check(self, file: BinaryIO) -> None:
        """Do nothing: bytes in memory do not change."""


@dataclass(frozen=True)
class FileSource:
    """A regular file and its state when it was first seen; messages call it ``name``."""

    name: str
    path: Path
    signature: Signature

    def open(self) -> BinaryIO:
        """Open the file. Raises: DataError if it cannot be read."""
        try:
            return self.path.open("rb")
        except OSError as error:
            raise cannot_read(self.path, error) from None

    def check(self, file: BinaryIO) -> None:
        """Check that the open file has not changed. Raises: DataError."""
        if signature_of(os.fstat(file.fileno())) != self.signature:
            raise DataError(
                msg("{name} was changed while it was being read: start again", name=self.name)
            )


@dataclass(frozen=True)
class ObjectSource:
    """A file of object storage, read in ranges; messages call it ``name``."""

    name: str
    file: ObjectFile

    def open(self) -> BinaryIO:
        """A stream of its bytes. Raises: DataError, while it is read, if it cannot be reached."""
        return open_object(self.file)

    def check(self, file: BinaryIO) -> None:
        """Do nothing: it was checked when it was opened, and each check is a request."""


Source: TypeAlias = BytesSource | FileSource | ObjectSource


def file_source(path: Path, name: str | None = None) -> FileSource:
    """A regular file, to be read later. Raises: DataError if it is not a regular file."""
    status, shown = status_of(path), display_path(path)
    if status is None:
        raise DataError(msg("cannot read {shown}: it no longer exists", shown=shown))
    if stat.S_ISFIFO(status.st_mode):  # Opening a pipe without a writer would block.
        raise DataError(
            msg("{shown} is a pipe, not a file: pipe it into standard input with -", shown=shown)
        )
    if not stat.S_ISREG(status.st_mode):
        raise DataError(
            msg("expected a file of text, but {shown} is a device or a socket", shown=shown)
        )
    return FileSource(name or shown, path, signature_of(status))


def read_bytes(path: Path) -> bytes:
    """All bytes of a regular file. Raises: DataError if it is not one or cannot be read."""
    with file_source(path).open() as file:
        try:
            return file.read()
        except OSError as error:
            raise cannot_read(path, error) from None


def buffer_stream(stream: BinaryIO, name: str) -> Source:
    """The rest of a stream, in memory, or in a temporary file if large. Raises: OSError."""
    data = stream.read(MAX_IN_MEMORY_BYTES + 1)
    if len(data) <= MAX_IN_MEMORY_BYTES:
        return BytesSource(name, data)
    descriptor, temporary = tempfile.mkstemp(prefix="hornbook-")
    path = Path(temporary)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            shutil.copyfileobj(stream, file, 1 << 20)
        source = file_source(path, name)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    weakref.finalize(source, path.unlink, missing_ok=True)
    return source


def signature_of(status: os.stat_result) -> Signature:
    """What identifies a file and its content; programs can set st_mtime, but not st_ctime."""
    return status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def status_of(path: Path) -> os.stat_result | None:
    """The status of a path, None if nothing is there. Raises: DataError if that is unknown."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise cannot_read(path, error) from None


def cannot_read(path: Path, error: OSError) -> DataError:
    """The error for a path that cannot be read."""
    return DataError(
        msg("cannot read {path}: {error}", path=display_path(path), error=reason(error))
    )
