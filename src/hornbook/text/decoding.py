"""Bytes to text in chunks, by the given encoding, else the byte order mark, else UTF-8."""

import codecs
import difflib
import sys
from collections.abc import Iterator
from typing import BinaryIO

from hornbook.errors import ConfigError, DataError, reason
from hornbook.text.sources import Source

CHUNK_BYTES = 1 << 20  # hides the cost of the loop, and its text still fits a core's cache

# UTF-32 comes first, because its little-endian mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# Python's incremental decoders of these lose characters at the ends of chunks.
_NOT_INCREMENTAL = ("idna", "punycode")


class NotTextError(DataError):
    """Bytes that are not text in the encoding in which they were read."""


def decode(
    source: Source, encoding: str | None, notes: list[str], *, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[str]:
    """The text of a source in non-empty chunks; notes for the user are appended to ``notes``.

    Raises: NotTextError with the offset; DataError if the source cannot be read.
    """
    bytes_before, characters = 0, 0
    with source.open() as file:
        data = _read(file, chunk_bytes, source)
        marked = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
        if encoding is None and marked is not None:
            notes.append(f"read as {marked} (by its byte order mark)")
        codec = _codec(encoding or marked or "utf-8", marked)
        if codec in _NOT_INCREMENTAL:
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
                # The error's object begins with the bytes left over from the chunk before.
                left_over = len(getattr(error, "object", data)) - len(data)
                in_text = isinstance(error, UnicodeEncodeError)
                start = characters if in_text else bytes_before - left_over
                raise NotTextError(_undecodable(source, name, error, start)) from None
            if not characters and text.startswith("\ufeff"):
                text = text[1:]
                notes.append("removed a byte order mark")
            if "\0" in text:
                raise NotTextError(
                    f"{source.name} contains a NUL character at offset "
                    f"{characters + text.index(chr(0)):,}: it is not text, or it is UTF-16 without "
                    "a byte order mark (then use --encoding utf-16-le)"
                )
            if text:
                yield text
            characters += len(text)
            bytes_before += len(data)
            data = following


def expect_encoding(encoding: str) -> None:
    """Check that Python knows an encoding. Raises: ConfigError with a suggestion."""
    try:
        b"a".decode(encoding if encoding.isascii() else "?")
    except UnicodeError:
        return  # a known encoding in which a single byte is not a character
    except (LookupError, ValueError):
        from encodings.aliases import aliases

        # Python also has codecs that are not of text, such as hex.
        names = {*aliases, *aliases.values()} - {encoding}
        close = difflib.get_close_matches(encoding.lower(), names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(
            f"expected the name of an encoding, such as utf-8 or cp949; got {encoding!r}{hint}"
        ) from None


def _read(file: BinaryIO, size: int, source: Source) -> bytes:
    try:
        data = file.read(size)
    except OSError as error:
        raise DataError(f"cannot read {source.name}: {reason(error)}") from None
    # After each chunk, so that nothing computed from a changed file is saved: it takes 1 us.
    source.check(file)
    return data


def _codec(name: str, marked: str | None) -> str:
    """Python's name of a codec."""
    codec = codecs.lookup(name).name
    # Incremental decoding of these needs a byte order mark; without one use the native order.
    if codec in ("utf-16", "utf-32") and marked is None:
        return f"{codec}-{sys.byteorder[0]}e"
    return codec


def _undecodable(source: Source, name: str, error: UnicodeError, start: int) -> str:
    """Why a source is not text in an encoding; ``start`` is the offset of the error's object."""
    if isinstance(error, UnicodeEncodeError):
        at = start + error.start
        return f"{source.name} read as {name} contains half a surrogate pair at offset {at:,}"
    if not isinstance(error, UnicodeDecodeError):
        return f"{source.name} is not {name}: {reason(error)}"
    bad = error.object[error.start : error.start + 1].hex()
    at = f"byte 0x{bad} at offset {start + error.start:,}"
    with source.open() as file:
        binary = any(b"\0" in data for data in iter(lambda: file.read(CHUNK_BYTES), b""))
    guess = None if binary else _likely_encoding(source, start + error.start)
    hint = f"it looks like {guess}: use --encoding {guess}" if guess else "is it text at all?"
    if guess is None and not binary:
        hint = "give its encoding with --encoding NAME"
    return f"{source.name} is not {name} text: {at}; {hint}"


def _likely_encoding(source: Source, near: int) -> str | None:
    """charset-normalizer's guess from the bytes around an offset, if all bytes decode with it."""
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
