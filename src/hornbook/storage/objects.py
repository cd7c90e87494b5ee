"""Files elsewhere, by fsspec: object storage, the Hub, web servers. Every request ends.

What fails, or has no answer for long, is tried again a few times; then there is one error.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from typing import Any, BinaryIO, TypeVar, cast

from hornbook.errors import DataError, display_path, reason
from hornbook.language import msg

ATTEMPTS, FIRST_WAIT_SECONDS, ANSWER_SECONDS = 5, 0.5, 60.0
# The most that one request reads.
REQUEST_BYTES = 1 << 23
# What no second attempt changes.
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError)

Result = TypeVar("Result")


@dataclass(frozen=True)
class ObjectFile:
    """A file elsewhere: its address, its size, and what changes with its content."""

    url: str
    size: int
    stamp: str


def is_address(name: str) -> bool:
    """Whether a name is one of a file elsewhere."""
    return "://" in name and not name.startswith("file://")


def listed(url: str) -> list[ObjectFile]:
    """The files below an address, or of a pattern, by their names; one file is itself.

    Raises: DataError.
    """

    def files() -> list[ObjectFile]:
        filesystem, path = filesystem_of(url)
        if any(mark in path for mark in "*?["):
            found = filesystem.glob(path, detail=True)
        elif (facts := filesystem.info(path)).get("type") == "file":
            return [ObjectFile(url, int(facts["size"]), stamp_of(facts))]
        else:
            found = filesystem.find(path, detail=True)
        return [
            ObjectFile(filesystem.unstrip_protocol(name), int(facts["size"]), stamp_of(facts))
            for name, facts in sorted(found.items())
            if facts.get("type", "file") == "file" and not name.rpartition("/")[2].startswith(".")
        ]

    return patiently(url, files)


def status(url: str) -> ObjectFile | None:
    """What is known of one file; None where there is none. Raises: DataError."""

    def found() -> ObjectFile | None:
        filesystem, path = filesystem_of(url)
        filesystem.invalidate_cache()
        try:
            facts = filesystem.info(path)
        except FileNotFoundError as error:
            if passing(error):
                raise
            return None
        return ObjectFile(url, int(facts.get("size") or 0), stamp_of(facts))

    return patiently(url, found)


def read(url: str, start: int = 0, stop: int | None = None) -> bytes:
    """Some bytes of a file, or all. Raises: DataError."""

    def data() -> bytes:
        filesystem, path = filesystem_of(url)
        found = bytes(filesystem.cat_file(path, start=start, end=stop))
        if stop is not None and len(found) != stop - start:
            raise OSError(
                msg(
                    "{number:,} bytes came instead of {expected:,}",
                    number=len(found),
                    expected=stop - start,
                )
            )
        return found

    return patiently(url, data)


def open_object(file: ObjectFile) -> BinaryIO:
    """A stream of a file's bytes, which can seek."""
    return cast("BinaryIO", BufferedReader(_Ranges(file), REQUEST_BYTES))


class _Ranges(RawIOBase):
    """A file's bytes, each read by a request for a range."""

    def __init__(self, file: ObjectFile) -> None:
        self.file, self.place = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = offset + (0, self.place, self.file.size)[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        stop = min(self.file.size, self.place + min(len(buffer), REQUEST_BYTES))
        if stop <= self.place:
            return 0
        data = read(self.file.url, self.place, stop)
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def filesystem_of(url: str) -> tuple[Any, str]:
    """The file system of an address, and the path there.

    Raises: DataError for a chain of addresses, or one of an unknown kind.
    """
    # fsspec's chains and references would open further addresses, named in a file.
    if "::" in url or url.startswith("reference:"):
        raise DataError(
            msg("cannot read {url}: expected one plain address, without ::", url=display_path(url))
        )
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except ValueError as error:  # an unknown protocol
        raise DataError(
            msg("cannot read {url}: {why}", url=display_path(url), why=reason(error))
        ) from None


def stamp_of(facts: dict[str, Any]) -> str:
    """What tells one content of a file from another, as far as the storage knows."""
    names = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "mtime", "last_commit")
    return next((str(facts[name]) for name in names if facts.get(name)), "")


def patiently(url: str, call: Callable[[], Result]) -> Result:
    """The result of a request, which may be tried again. Raises: DataError."""
    shown, last = display_path(url), ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        try:
            return within(ANSWER_SECONDS, call)
        except DataError:
            raise
        except FINAL as error:
            if passing(error):
                last = reason(error.__cause__ or error)
                continue
            missing = isinstance(error, FileNotFoundError)
            why = msg("nothing is there") if missing else reason(error)
            raise DataError(msg("cannot read {shown}: {why}", shown=shown, why=why)) from None
        except Exception as error:  # noqa: BLE001 - each back end of fsspec raises its own types
            last = reason(error)
    raise DataError(
        msg(
            "cannot read {shown}: {attempts} attempts failed, the last one with: {last}; what "
            "is done is kept, and can go on from there",
            shown=shown,
            attempts=ATTEMPTS,
            last=last,
        )
    )


def passing(error: Exception) -> bool:
    """Whether a file that is "not found" may be there: fsspec says so of any answer by HTTP."""
    cause = error.__cause__
    return cause is not None and (getattr(cause, "status", None) or 500) >= 500


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """The result of a call, which is left alone when it takes longer. Raises: TimeoutError."""
    done: queue.Queue[tuple[Result | None, Exception | None]] = queue.Queue()

    def run() -> None:
        try:
            done.put((call(), None))
        except Exception as error:  # noqa: BLE001 - handed over to who waits
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        found, error = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(msg("no answer in {seconds:g} s", seconds=seconds)) from None
    if error is not None:
        raise error
    return cast("Result", found)
