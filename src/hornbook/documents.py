"""Reading small files that anybody may have written: never endless, never too large or too deep."""

import errno
import json
import os
import stat
from typing import Any

SETTINGS_BYTES = 1 << 16  # a run's config.toml has about 1 kB; tomllib takes 1 s for the worst 64
JSON_BYTES = 1 << 26


def read_regular(path: str | os.PathLike[str], largest: int | None = None) -> bytes:
    """The bytes of a regular file; links are followed, pipes and devices are not waited for.

    Raises: OSError, its strerror saying why not: also for a file of more than `largest` bytes, or
    more than memory holds.
    """
    # Opened without waiting, and judged by what was opened: a name may change hands in between.
    with open(path, "rb", opener=open_without_waiting) as file:  # noqa: PTH123 - Path has no opener
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no regular file", os.fspath(path))
        if largest is not None and status.st_size > largest:
            what = f"too large: {status.st_size:,} bytes, expected at most {largest:,}"
            raise OSError(errno.EFBIG, what, os.fspath(path))
        try:
            return file.read()
        except MemoryError:
            what = f"{status.st_size:,} bytes are more than memory holds"
            raise OSError(errno.ENOMEM, what, os.fspath(path)) from None


def open_without_waiting(path: str, flags: int) -> int:
    """An opener that does not wait for a pipe's writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


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
