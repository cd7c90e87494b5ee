"""Bytes to text in chunks, by the given encoding, else the byte order mark, else UTF-8.

Compressed bytes are decompressed first.
"""

import codecs
import difflib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from hornbook.errors import ConfigError, DataError, reason
from hornbook.language import msg
from hornbook.text.encodings import SAMPLE_BYTES, changed_line, damage, guess
from hornbook.text.formats import DAMAGED, Compression, decompressed, not_text
from hornbook.text.sources import Source

AUTO = "auto"  # as an encoding: the likely one of each file
REPLACING = "utf-8:replace"
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
    """Bytes that are not text in the encoding in which they were read.

    `likely` is another encoding, and `line` a part of the text in it.
    """

    likely: str | None = None
    line: str = ""


@contextmanager
def opened(source: Source) -> Iterator[BinaryIO]:
    """The content of a source, decompressed. Raises: DataError if it cannot be read."""
    with source.open() as file:
        yield decompressed(file)[0]


def decode(
    source: Source, encoding: str | None, notes: list[str], *, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[str]:
    """The text of a source in non-empty chunks; notes for the user are appended to ``notes``.

    An encoding may end in ":replace": U+FFFD then stands for bytes that are not of it.
    Raises: NotTextError with the offset; DataError if the source cannot be read.
    """
    bytes_before, characters, replaced = 0, 0, 0
    encoding, _, errors = (encoding or "").partition(":")
    with source.open() as file:
        stream, compression = decompressed(file)

        def read(size: int) -> bytes:
            data = _read(stream, size, source, compression)
            # After each chunk, so that nothing made of a changed file is saved: it takes 1 us.
            source.check(file)
            return data

        data = read(chunk_bytes)
        if kind := not_text(data):
            raise NotTextError(msg("{name} {problem}", name=source.name, problem=kind))
        marked = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
        if not encoding and marked is not None:
            notes.append(msg("read as {encoding} (by its byte order mark)", encoding=marked))
        codec = _codec(encoding or marked or "utf-8", marked)
        if codec in _NOT_INCREMENTAL:
            data += read(-1)
        decoder = codecs.getincrementaldecoder(codec)(errors or "strict")
        while data:
            following = read(chunk_bytes)
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
                raise _undecodable(source, name, error, start) from None
            if not characters and text.startswith("\ufeff"):
                text = text[1:]
                notes.append(msg("removed a byte order mark"))
            if "\0" in text:
                raise NotTextError(
                    msg(
                        "{source} contains a NUL character at offset {offset:,}: it is not text, "
                        "or it is UTF-16 without a byte order mark (then use --encoding utf-16-le)",
                        source=source.name,
                        offset=characters + text.index(chr(0)),
                    )
                )
            if text:
                yield text
            characters += len(text)
            replaced += text.count("\ufffd")
            bytes_before += len(data)
            data = following
        if compression:
            name = compression.name
            if compression.unchecked():
                name = msg("{name}, without a checksum: damage may go unnoticed", name=name)
            notes.append(msg("decompressed ({name})", name=name))
    if errors and replaced:
        places = msg("{number:,} places", number=replaced) if replaced > 1 else msg("1 place")
        notes.append(
            msg(
                "U+FFFD replaces what is not {encoding} in {places}",
                encoding=encoding,
                places=places,
            )
        )


def expect_encoding(encoding: str) -> None:
    """Check that an encoding is known, or "auto". Raises: ConfigError with a suggestion."""
    if encoding == AUTO:
        return
    encoding = encoding.removesuffix(":replace")
    try:
        b"a".decode(encoding if encoding.isascii() else "?")
    except UnicodeError:
        return  # a known encoding in which a single byte is not a character
    except (LookupError, ValueError):
        from encodings.aliases import aliases

        # Python also has codecs that are not of text, such as hex.
        names = {*aliases, *aliases.values()} - {encoding}
        close = difflib.get_close_matches(encoding.lower(), names, 1)
        hint = msg(" (did you mean {near}?)", near=close[0]) if close else ""
        raise ConfigError(
            msg(
                "expected the name of an encoding, such as utf-8 or cp949; got {encoding!r}{hint}",
                encoding=encoding,
                hint=hint,
            )
        ) from None


def _read(stream: BinaryIO, size: int, source: Source, compression: Compression | None) -> bytes:
    try:
        return stream.read(size)
    except DAMAGED as error:
        if compression is None:
            raise DataError(
                msg("cannot read {source}: {error}", source=source.name, error=reason(error))
            ) from None
        raise NotTextError(
            msg(
                "{name}: its {kind} data are damaged or cut off: {why}",
                name=source.name,
                kind=compression.name,
                why=reason(error),
            )
        ) from None


def _codec(name: str, marked: str | None) -> str:
    """Python's name of a codec."""
    codec = codecs.lookup(name).name
    # Incremental decoding of these needs a byte order mark; without one use the native order.
    if codec in ("utf-16", "utf-32") and marked is None:
        return f"{codec}-{sys.byteorder[0]}e"
    return codec


def _undecodable(source: Source, name: str, error: UnicodeError, start: int) -> NotTextError:
    """Why a source is not text in an encoding; ``start`` is the offset of the error's object."""
    if isinstance(error, UnicodeEncodeError):
        at = start + error.start
        return NotTextError(
            msg(
                "{source} read as {name} contains half a surrogate pair at offset {at:,}",
                source=source.name,
                name=name,
                at=at,
            )
        )
    if not isinstance(error, UnicodeDecodeError):
        return NotTextError(
            msg(
                "{source} is not {name}: {error}",
                source=source.name,
                name=name,
                error=reason(error),
            )
        )
    bad = error.object[error.start : error.start + 1].hex()
    likely, line, hint = _advice(source, start + error.start)
    found = NotTextError(
        msg(
            "{source} is not {name} text: byte 0x{byte} at offset {offset:,}; {hint}",
            source=source.name,
            name=name,
            byte=bad,
            offset=start + error.start,
            hint=hint,
        )
    )
    found.likely, found.line = likely, line
    return found


def _advice(source: Source, near: int) -> tuple[str | None, str, str]:
    """The likely encoding of a source that is not UTF-8 there, a line of it, and advice."""
    with opened(source) as file:
        if any(b"\0" in data for data in _pieces(file)):
            return None, "", msg("is it text at all?")
    with opened(source) as file:
        damaged = damage(_pieces(file))
    if not damaged.places:
        return "utf-8", "", msg("it looks like utf-8: use --encoding utf-8")
    replacing = msg(
        "it is UTF-8 but for {damage}: --encoding {encoding} puts U+FFFD there",
        damage=damaged.described(),
        encoding=REPLACING,
    )
    if damaged.small and damaged.beyond_ascii:
        return REPLACING, "", replacing
    with opened(source) as file:
        skipped = max(0, near - SAMPLE_BYTES // 2)
        while skipped:  # not every decompressor can seek
            skipped -= len(file.read(min(skipped, CHUNK_BYTES)))
        sample = file.read(SAMPLE_BYTES)
    likely, line = guess(sample), ""
    if likely and _is_text(source, likely):
        line = changed_line(sample, likely)
        hint = msg(
            "it looks like {encoding}, which reads {line!r}: use --encoding {encoding}",
            encoding=likely,
            line=line,
        )
    else:
        likely, hint = None, msg("give its encoding with --encoding NAME")
    if damaged.small:
        likely = likely or REPLACING
        hint = msg(
            "{hint}; or, if it is UTF-8 but for {damage}, --encoding {encoding} puts U+FFFD there",
            hint=hint,
            damage=damaged.described(),
            encoding=REPLACING,
        )
    return likely, line, hint


def _is_text(source: Source, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with opened(source) as file:
        try:
            for data in _pieces(file):
                decoder.decode(data)
            decoder.decode(b"", final=True)
        except UnicodeError:
            return False
    return True


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(CHUNK_BYTES), b"")
