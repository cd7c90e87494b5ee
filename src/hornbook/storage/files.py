"""Reading small files that anybody may have written: never endless, never too large or too deep."""

import errno
import json
import mmap
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

SETTINGS_BYTES = 1 << 16  # a run's config.toml has about 1 kB; tomllib takes 1 s for the worst 64
JSON_BYTES = 1 << 26
LOG_BYTES = 1 << 32  # ten million steps' metrics
LOG_LINE_BYTES = 1 << 20


def open_regular(path: str | os.PathLike[str], largest: int | None = None) -> BufferedReader:
    """A regular file opened for reading; links are followed, pipes and devices not waited for.

    Raises: OSError, its strerror saying why not: also for a file of more than `largest` bytes.
    """
    file = open(path, "rb", opener=open_without_waiting)  # noqa: SIM115
    # Judged by what was opened, since a name may change hands in between.
    status = os.fstat(file.fileno())
    why = ""
    if not stat.S_ISREG(status.st_mode):
        why = "no regular file"
    elif largest is not None and status.st_size > largest:
        why = f"too large: {status.st_size:,} bytes, expected at most {largest:,}"
    if why:
        file.close()
        raise OSError(errno.EINVAL, why, os.fspath(path))
    return file


def open_without_waiting(path: str, flags: int) -> int:
    """An opener that does not wait for a pipe's writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_regular(path: str | os.PathLike[str], largest: int | None = None) -> bytes:
    """The bytes of a regular file.

    Raises: OSError as `open_regular` does, and for more bytes than memory holds.
    """
    with open_regular(path, largest) as file:
        try:
            return file.read()
        except MemoryError:
            what = "more bytes than memory holds"
            raise OSError(errno.ENOMEM, what, os.fspath(path)) from None


def map_regular(path: str | os.PathLike[str]) -> mmap.mmap:
    """The bytes of a regular file as they lie on the disk; what is written to them stays here.

    Raises: OSError as `open_regular` does; ValueError for an empty file.
    """
    with open_regular(path) as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text.

    Raises: ValueError, also for one nested too deep to follow.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_json(path: str | os.PathLike[str], largest: int = JSON_BYTES) -> Any:
    """The value of a JSON file.

    Raises: OSError, ValueError.
    """
    return parse_json(read_regular(path, largest))


def read_log(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The values of a file with one JSON value a line; lines that hold none are passed over.

    Raises: OSError.
    """
    with open_regular(path, LOG_BYTES) as file:
        # A line without end comes in pieces, and none of them is a value.
        while line := file.readline(LOG_LINE_BYTES):
            try:
                yield parse_json(line)
            except ValueError:
                continue
