"""Bytes to text, a chunk at a time: by the encoding named, else the byte order mark, else UTF-8."""

from __future__ import annotations

import codecs
import difflib
import sys
from typing import TYPE_CHECKING

from hornbook.errors import ConfigError, DataError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from hornbook.text.sources import Source

CHUNK_BYTES = 1 << 20  # hides the loop's own cost, and its text still fits a core's cache

# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# Python's incremental decoders of these lose what a chunk's end cuts.
_WHOLE_ONLY = ("idna", "punycode")


class NotTextError(DataError):
    """Bytes that no text is made of, in the encoding they were read in."""


def decode(
    source: Source, encoding: str | None, notes: list[str], *, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[str]:
    """The text of a source in chunks, none empty; ``notes`` gets what a reader should be told.

    Raises: NotTextError, naming the place; DataError for what cannot be read.
    """
    before, characters = 0, 0
    with source.open() as file:
        data = _read(file, chunk_bytes, source)
        marked = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
        if encoding is None and marked is not None:
            notes.append(f"read as {marked} (by its byte order mark)")
        codec = _codec(encoding or marked or "utf-8", marked)
        if codec in _WHOLE_ONLY:
            data += _read(file, -1, source)
        decoder = codecs.getincrementaldecoder(codec)()
        while data:
            following = _read(file, chunk_bytes, source)
            try:
                text = decoder.decode(data, not following)
                if codec != "utf-8":
                    text.encode()  # UTF-7 and escapes can spell half a surrogate pair
            except UnicodeError as error:
                name = encoding or marked or "UTF-8"
                # What the decoder had kept of the chunk before counts to this one's places.
                kept = len(getattr(error, "object", data)) - len(data)
                start = characters if isinstance(error, UnicodeEncodeError) else before - kept
                raise NotTextError(_undecodable(source, name, error, start)) from None
            if not characters and text.startswith("\ufeff"):
                text = text[1:]
                notes.append("removed a byte order mark")
            if "\0" in text:
                raise NotTextError(
                    f"{source.shown} holds a NUL character at offset "
                    f"{characters + text.index(chr(0)):,}: it is not text, or it is UTF-16 without "
                    "its mark (then say --encoding utf-16-le)"
                )
            if text:
                yield text
            characters += len(text)
            before += len(data)
            data = following


def expect_encoding(encoding: str) -> None:
    """See that an encoding is known. Raises: ConfigError with a suggestion."""
    try:
        b"a".decode(encoding if encoding.isascii() else "?")
    except UnicodeError:
        return  # known, but a lone byte means nothing in it
    except (LookupError, ValueError):
        from encodings.aliases import aliases

        names = {*aliases, *aliases.values()} - {encoding}  # a codec of bytes, such as hex
        close = difflib.get_close_matches(encoding.lower(), names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(
            f"expected the name of an encoding, such as utf-8 or cp949; got {encoding!r}{hint}"
        ) from None


def _read(file: BinaryIO, size: int, source: Source) -> bytes:
    try:
        data = file.read(size)
    except OSError as error:
        raise DataError(f"cannot read {source.shown}: {reason(error)}") from None
    # Looked at again after each chunk (a microsecond): nothing made of a changed one is ever kept.
    source.check(file)
    return data


def _codec(name: str, marked: str | None) -> str:
    """Python's own name of a codec."""
    codec = codecs.lookup(name).name
    # In chunks these insist on a byte order mark; without one they are the machine's own order.
    if codec in ("utf-16", "utf-32") and marked is None:
        return f"{codec}-{sys.byteorder[0]}e"
    return codec


def _undecodable(source: Source, name: str, error: UnicodeError, start: int) -> str:
    """Why a source is not in an encoding; ``start`` is where the error's object lies in it."""
    called = source.shown
    if isinstance(error, UnicodeEncodeError):
        place = start + error.start
        return f"{called} read as {name} holds half a surrogate pair at offset {place:,}"
    if not isinstance(error, UnicodeDecodeError):
        return f"{called} is not {name}: {reason(error)}"
    bad = error.object[error.start : error.start + 1].hex()
    place = f"byte 0x{bad} at offset {start + error.start:,}"
    with source.open() as file:
        binary = any(b"\0" in data for data in iter(lambda: file.read(CHUNK_BYTES), b""))
    guess = None if binary else _likely_encoding(source, start + error.start)
    hint = f"it looks like {guess}: say --encoding {guess}" if guess else "is it text at all?"
    if guess is None and not binary:
        hint = "say which it is with --encoding NAME"
    return f"{called} is not {name} text, by {place}; {hint}"


def _likely_encoding(source: Source, near: int) -> str | None:
    """The guess of charset-normalizer, from the bytes around a place, if all the bytes fit it."""
    from charset_normalizer import from_bytes

    with source.open() as file:
        file.seek(max(0, near - 16_384))
        best = from_bytes(file.read(32_768)).best()
    for guess in ("utf-8", best.encoding if best is not None else "utf-8"):
        decoder = codecs.getincrementaldecoder(guess)()
        with source.open() as file:
            try:
                for data in iter(lambda: file.read(CHUNK_BYTES), b""):
                    decoder.decode(data)
                decoder.decode(b"", final=True)
            except UnicodeError:
                continue
        return guess
    return None
