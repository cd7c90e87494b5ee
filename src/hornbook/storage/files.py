"""Safe reading of small files from unknown authors: bounded in time, size and nesting."""

import errno
import json
import mmap
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

from hornbook.language import msg

SETTINGS_BYTES = 1 << 16  # a config.toml has about 1 kB; the worst 64 kB take tomllib 1 s
JSON_BYTES = 1 << 26
LOG_BYTES = 1 << 32  # metrics of ten million steps
LOG_LINE_BYTES = 1 << 20


def open_regular(path: str | os.PathLike[str], max_bytes: int | None = None) -> BufferedReader:
    """Open a regular file for reading; follows links and never blocks on pipes or devices.

    Raises: OSError with the reason as strerror, also for a file of more than `max_bytes`.
    """
    wait_not = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda name, how: os.open(name, how | wait_not))  # noqa: SIM115
    # The status of the open file: the name may point to another file by now.
    status = os.fstat(file.fileno())
    why = ""
    if not stat.S_ISREG(status.st_mode):
        why = msg("no regular file")
    elif max_bytes is not None and status.st_size > max_bytes:
        why = msg(
            "too large: {size:,} bytes, expected at most {most:,}",
            size=status.st_size,
            most=max_bytes,
        )
    if why:
        file.close()
        raise OSError(errno.EINVAL, why, os.fspath(path))
    return file


def read_regular(path: str | os.PathLike[str], max_bytes: int | None = None) -> bytes:
    """The bytes of a regular file. Raises: OSError, also if they do not fit in memory."""
    with open_regular(path, max_bytes) as file:
        try:
            return file.read()
        except MemoryError:
            raise OSError(errno.ENOMEM, msg("larger than memory"), os.fspath(path)) from None


def map_regular(path: str | os.PathLike[str]) -> mmap.mmap:
    """Memory-map a regular file, copy on write. Raises: OSError; ValueError for an empty file."""
    with open_regular(path) as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def unmap_pages(mapped: mmap.mmap) -> None:
    """Unmap a mapped file's pages, where the system can; they stay in its file cache."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text. Raises: ValueError, also for text that is nested too deep."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError(msg("nested too deep")) from None


def read_json(path: str | os.PathLike[str], max_bytes: int = JSON_BYTES) -> Any:
    """The value of a JSON file. Raises: OSError, ValueError."""
    return parse_json(read_regular(path, max_bytes))


def read_log(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The values of a file with one JSON value a line; skips other lines. Raises: OSError."""
    with open_regular(path, LOG_BYTES) as file:
        # A line of unlimited length comes in pieces, none of which is a JSON value.
        while line := file.readline(LOG_LINE_BYTES):
            try:
                yield parse_json(line)
            except ValueError:
                continue
