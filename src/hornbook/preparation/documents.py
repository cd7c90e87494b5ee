"""Reads units: the documents of some files, or of parts of large ones."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import msgspec

from hornbook.errors import DataError, display_path
from hornbook.language import msg
from hornbook.preparation.files import SourceFile
from hornbook.storage import objects
from hornbook.text.decoding import NotTextError, decode
from hornbook.text.fields import SEPARATOR, documents
from hornbook.text.formats import PARQUET, decompressed
from hornbook.text.forms import reformed
from hornbook.text.sources import BytesSource, ObjectSource, Source, file_source

# A file of text up to this length is one document; a longer one is cut into passages.
ONE_DOCUMENT, PASSAGE = 1 << 20, 1 << 16
# How far the end of a line is looked for where a file of text is cut.
LINE_BYTES = 1 << 20
_RECORDS = re.compile(r"\.(jsonl|ndjson)$", re.IGNORECASE)
_ASCII_LIKE = re.compile(
    r"(utf-?8|ascii|latin-?1|iso-?8859-?\d+|cp12\d\d|cp949|euc-?kr)(:replace)?"
)


class Reading(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How texts are read; `separator` stands between the documents of a file of text."""

    encoding: str | None = None
    field: str | None = None
    newlines: str = "keep"
    normalize: str = "none"
    separator: str | None = None


class Piece(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file by its number, and the bytes of it that are read: all of it where `stop` is 0."""

    file: int
    start: int = 0
    stop: int = 0


class Unit(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What one shard is made of."""

    group: str
    pieces: list[Piece]


@dataclass(frozen=True)
class Document:
    """A document, or a passage of a long text; `follows` says that it goes on with the last one."""

    text: str
    follows: bool = False


def units_of(files: Sequence[SourceFile], reading: Reading, unit_bytes: int) -> list[Unit]:
    """All files in units of about so many bytes: large ones are cut, small ones are joined.

    A pure function of the files, so that several jobs agree on it. Raises: DataError.
    """
    units: list[Unit] = []
    held: list[Piece] = []
    size = 0
    for number, file in enumerate(files):
        ends = held and files[held[0].file].group != file.group
        if held and (ends or size + file.size > unit_bytes):
            units.append(Unit(files[held[0].file].group, held))
            held, size = list[Piece](), 0
        if file.size > unit_bytes and can_cut(file, reading):
            count = -(-file.size // unit_bytes)
            edges = [i * file.size // count for i in range(count + 1)]
            units += [
                Unit(file.group, [Piece(number, start, stop)]) for start, stop in pairwise(edges)
            ]
            continue
        held.append(Piece(number))
        size += file.size
    if held:
        units.append(Unit(files[held[0].file].group, held))
    return units


def can_cut(file: SourceFile, reading: Reading) -> bool:
    """Whether parts of a file can be read on their own: lines of text, in bytes as in ASCII."""
    if reading.field is not None and not _RECORDS.search(file.path):
        return False
    if reading.encoding is not None and not _ASCII_LIKE.fullmatch(reading.encoding.lower()):
        return False
    with opened(file).open() as stream:
        head = stream.read(4)
        stream.seek(0)
        marked = head[:2] in (b"\xff\xfe", b"\xfe\xff") or head.startswith(PARQUET)
        return not marked and decompressed(stream)[1] is None


def read_unit(
    unit: Unit, files: Sequence[SourceFile], reading: Reading, skipped: dict[str, str]
) -> Iterator[Document]:
    """The documents of a unit. A file that was not named, and is no text, is left at that place.

    `skipped` then has the reason under its name.
    Raises: DataError for a file that has changed since it was listed; NotTextError for a named one.
    """
    for piece in unit.pieces:
        file = files[piece.file]
        try:
            for text, follows in read_piece(file, piece, reading):
                form = reformed([text], newlines=reading.newlines, normalize=reading.normalize)
                yield Document("".join(form), follows)
        except NotTextError as error:
            if file.named:
                raise
            skipped[display_path(file.path)] = str(error)


def read_piece(file: SourceFile, piece: Piece, reading: Reading) -> Iterator[tuple[str, bool]]:
    """The documents of a part of a file, and whether each goes on with the one before it."""
    source: Source = opened(file)
    if piece.stop:
        source = part_of(source, piece, reading)
        if not (source.data.strip() if reading.field else source.data):
            return
    elif not file.size:
        return
    if reading.field is not None:
        for text in documents(source, reading.encoding, reading.field, []):
            yield text.removeprefix(SEPARATOR), False
        return
    chunks = decode(source, reading.encoding, [])
    if reading.separator is not None:
        yield from ((text, False) for text in split(chunks, reading.separator))
        return
    yield from passages(chunks, long=bool(piece.stop))


def opened(file: SourceFile) -> Source:
    """A listed file. Raises: DataError if it has changed since."""
    source: Source
    if objects.is_address(file.path):
        found = objects.status(file.path)
        state = (found.size, found.stamp) if found else None
        listed = objects.ObjectFile(file.path, file.size, file.stamp)
        source = ObjectSource(display_path(file.path), listed)
    else:
        source = file_source(Path(file.path))
        size, *_, changed, _ = source.signature
        state = size, str(changed)
    if state != (file.size, file.stamp):
        raise DataError(
            msg(
                "{path} has changed since the store was begun: bring it back, or prepare a new "
                "store",
                path=display_path(file.path),
            )
        )
    return source


def part_of(source: Source, piece: Piece, reading: Reading) -> BytesSource:
    """Whole lines or documents: those that begin in a part of a file."""
    mark = b"\n"
    if reading.field is None and reading.separator is not None:
        mark = reading.separator.encode((reading.encoding or "utf-8").partition(":")[0])
    # A record is never cut, and so is no document with a separator; a line of text may be.
    most = LINE_BYTES if mark == b"\n" and reading.field is None else None
    with source.open() as file:
        start = cut_after(file, piece.start, mark, most)
        stop = max(start, cut_after(file, piece.stop, mark, most))
        file.seek(start)
        data = file.read(stop - start)
        source.check(file)
    name = msg("{name} from byte {start:,} on", name=source.name, start=start)
    return BytesSource(name if start else source.name, data)


def cut_after(file: BinaryIO, place: int, mark: bytes, most: int | None) -> int:
    """The first place from `place` on that follows a mark: a function of the place alone.

    Without one in `most` bytes, it is the next place at which no character of UTF-8 is cut.
    """
    if not place:
        return 0
    begin = max(0, place - len(mark))
    file.seek(begin)
    held, at = b"", begin
    while data := file.read(1 << 16):
        held += data
        if (found := held.find(mark)) >= 0:
            return at + found + len(mark)
        if most is not None and at + len(held) - begin > most:
            file.seek(place)
            beginning = file.read(4)
            inside = (i for i, byte in enumerate(beginning) if byte & 0xC0 != 0x80)
            return place + next(inside, 0)
        drop = max(0, len(held) - len(mark) + 1)
        held, at = held[drop:], at + drop
    return at + len(held)


def split(chunks: Iterable[str], separator: str) -> Iterator[str]:
    """The documents of a text with a separator between them."""
    held = ""
    for chunk in chunks:
        *whole, held = (held + chunk).split(separator)
        yield from whole
    yield held


def passages(chunks: Iterable[str], *, long: bool) -> Iterator[tuple[str, bool]]:
    """A text as one document or, if it is long, as passages that end with a line."""
    held, follows = "", False
    for chunk in chunks:
        held += chunk
        if len(held) > (PASSAGE if long else ONE_DOCUMENT):
            start, long = 0, True
            while len(held) - start > PASSAGE:
                cut = held.rfind("\n", start, start + PASSAGE) + 1 or start + PASSAGE
                yield held[start:cut], follows
                start, follows = cut, True
            held = held[start:]
    if held:
        yield held, follows
