"""What a file is, by its first bytes: compressed, no text at all, or text with a structure."""

import bz2
import csv
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from typing import Any, BinaryIO, cast

import zstandard

from hornbook.language import msg
from hornbook.storage.files import parse_json

# What the readers below raise for damaged data.
ZSTD = b"\x28\xb5\x2f\xfd"
SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # RFC 8878, 3.1.2; then the length follows
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


@dataclass(frozen=True)
class Compression:
    """How a file is compressed; `unchecked` says, of what was read, whether it has no checksum."""

    name: str
    unchecked: Callable[[], bool] = lambda: False


def decompressed(file: BinaryIO) -> tuple[BinaryIO, Compression | None]:
    """The stream of a file's content, and how it is compressed, None if it is not."""
    head = file.read(10)
    file.seek(0)
    if head.startswith(b"\x1f\x8b\x08"):
        return cast("BinaryIO", gzip.GzipFile(fileobj=file)), Compression("gzip")
    if head.startswith(b"\xfd7zXZ\0"):
        # The .xz file format 1.1.0, 2.1.1.2: the low bits are 0 for no check.
        return cast("BinaryIO", lzma.LZMAFile(file)), Compression("xz", lambda: not head[7] & 15)
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", head):
        return cast("BinaryIO", bz2.BZ2File(file)), Compression("bzip2")
    if first_frame(file).startswith(ZSTD):
        frames = _Zstd(file)
        stream = cast("BinaryIO", BufferedReader(frames))
        return stream, Compression("zstd", lambda: frames.unchecked)
    return file, None


def first_frame(file: BinaryIO) -> bytes:
    """The first bytes after zstd's skippable frames, with which pzstd begins a file."""
    head = file.read(8)
    while len(head) == 8 and SKIPPABLE.match(head):
        file.seek(int.from_bytes(head[4:], "little"), 1)
        head = file.read(8)
    file.seek(0)
    return head


class _Zstd(RawIOBase):
    """Frames of zstd, decompressed; the library's own reader takes a file cut off for a whole one.

    `unchecked` says that a frame has no checksum. Of such a frame the library checks the length,
    where it has that, so that damage of the same length may be read as another text.
    Raises: EOFError for a file that ends within a frame; ZstdError for damaged data.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.frames = zstandard.ZstdDecompressor().decompressobj()
        self.ready, self.waiting = b"", b""
        self.begins, self.unchecked = True, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            data = self.waiting or self.file.read(1 << 17)
            if not data:
                if not self.frames.eof:
                    raise EOFError(msg("the file ends within a frame"))
                return 0
            if self.frames.eof:
                self.frames, self.begins = zstandard.ZstdDecompressor().decompressobj(), True
            if self.begins:
                data += self.file.read(5 - len(data)) if len(data) < 5 else b""
                # RFC 8878, 3.1.1.1.1: the byte after the magic number describes the frame.
                self.unchecked |= data.startswith(ZSTD) and len(data) > 4 and not data[4] & 4
                self.begins = False
            self.ready = self.frames.decompress(data)
            self.waiting = self.frames.unused_data
        size = min(len(buffer), len(self.ready))
        buffer[:size], self.ready = self.ready[:size], self.ready[size:]
        return size


_OCR = msg("recognise its text, for example with: tesseract FILE text")
_PANDOC = msg("extract its text with: pandoc -t plain FILE -o text.txt")
_UNPACK = msg("unpack it, and give the folder")
_OFFICE = msg("extract its text with: soffice --convert-to txt:Text FILE")
_SOUND = msg("transcribe it, for example with whisper")
PARQUET = b"PAR1"

# The first bytes, an expression that the first 64 KiB must contain, what it is, and what to do.
_NOT_TEXT = (
    (b"%PDF-", b"", msg("a PDF document"), msg("extract its text with: pdftotext FILE text.txt")),
    (b"PK\x03\x04", b"application/epub\\+zip", msg("an EPUB book"), _PANDOC),
    (b"PK\x03\x04", b"application/hwp\\+zip", msg("an HWPX document"), msg("save it as text")),
    (b"PK\x03\x04", b"opendocument\\.text", msg("an OpenDocument text"), _PANDOC),
    (b"PK\x03\x04", b"opendocument", msg("an OpenDocument file"), _OFFICE),
    (b"PK\x03\x04", b"word/", msg("a Word document"), _PANDOC),
    (
        b"PK\x03\x04",
        b"xl/",
        msg("an Excel workbook"),
        msg("save it as CSV, and give a column with --field"),
    ),
    (b"PK\x03\x04", b"ppt/", msg("a PowerPoint presentation"), _OFFICE),
    (b"PK\x03\x04", b"", msg("a zip archive"), _UNPACK),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        b"",
        msg("a Word 97 or HWP document"),
        msg("save it as text"),
    ),
    (b"Rar!\x1a\x07", b"", msg("a RAR archive"), _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", b"", msg("a 7-Zip archive"), _UNPACK),
    (b"\x89PNG", b"", msg("an image (PNG)"), _OCR),
    (b"\xff\xd8\xff", b"", msg("an image (JPEG)"), _OCR),
    (b"GIF87a", b"", msg("an image (GIF)"), _OCR),
    (b"GIF89a", b"", msg("an image (GIF)"), _OCR),
    (b"II*\0", b"", msg("an image (TIFF)"), _OCR),
    (b"MM\0*", b"", msg("an image (TIFF)"), _OCR),
    (b"RIFF", b"^....WEBP", msg("an image (WebP)"), _OCR),
    (b"RIFF", b"^....WAVE", msg("a sound recording"), _SOUND),
    (b"ID3", b"^[\x02-\x04]\0", msg("a sound recording"), _SOUND),
    (b"OggS\0", b"", msg("a sound recording"), _SOUND),
    (b"fLaC", b"^\0", msg("a sound recording"), _SOUND),
    (b"\0\0\0", b"^.ftyp", msg("a video or an image"), _SOUND),
    (PARQUET, b"\0", msg("a Parquet table"), msg("give one of its columns with --field NAME")),
    (b"SQLite format 3\0", b"", msg("an SQLite database"), msg("export a table as CSV")),
    (b"\x7fELF", b"", msg("a program"), msg("give a file of text")),
    (b"", b"^.{257}ustar[\0 ]", msg("a tar archive"), _UNPACK),
    (
        b"",
        b"^.{60}BOOKMOBI",
        msg("a Kindle book"),
        msg("extract its text with: ebook-convert FILE text.txt"),
    ),
)
# The least that tells a file of these from a text.
_HEAD_BYTES = 1 << 16


def not_text(data: bytes) -> str | None:
    """What kind of file the first bytes are of, if not of text, and what would get its text."""
    head = data[:_HEAD_BYTES]
    for magic, pattern, kind, advice in _NOT_TEXT:
        inside = pattern[1:] if pattern.startswith(b"^") else pattern
        find = re.match if inside != pattern else re.search
        if head.startswith(magic) and find(inside, head[len(magic) :], re.DOTALL):
            return msg("is {kind}, not text; {advice}", kind=kind, advice=advice)
    return None


_MARKUP = (
    (r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype html|<html)", "HTML"),
    (r"\s*<\?xml", "XML"),
    (r"\{\\rtf", "RTF"),
)
_CLOCK = r"\d{1,2}[:.]\d{2}([:.]\d{2})?(\s?[apAP]\.?[mM]\.?)?"
_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}"
# A line of a chat: [date, time] name: text; date, time - name: text; [name] [time] text; and
# KakaoTalk's date in Korean.
_CHAT_LINE = re.compile(
    rf"\[?({_DATE},? )?{_CLOCK}\]?( -)? [^:]{{1,40}}: |\[[^\]]{{1,40}}\] \[.{{0,6}}{_CLOCK}\] "
    r"|\d{4}년 \d{1,2}월 \d{1,2}일 (오전|오후) \d{1,2}:\d{2}, "
)
_CUE = re.compile(r"^(\d+:)?\d{2}:\d{2}[,.]\d{3} --> ", re.MULTILINE)


def structure(text: str, name: str) -> str | None:
    """A remark on a text that has a structure around its words; `text` is its beginning."""
    found = next(_structures(text, name), None)
    if found is None:
        return None
    kind, included, advice = found
    return msg(
        "looks like {kind}: {included} are trained on as they stand; {advice}",
        kind=kind,
        included=included,
        advice=advice,
    )


def _structures(text: str, name: str) -> Iterator[tuple[str, str, str]]:
    """What a text looks like, what it holds beside its words, and what would take these out."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for pattern, kind in _MARKUP:
        if re.match(pattern, text, re.IGNORECASE | re.DOTALL):
            yield kind, msg("its tags"), _PANDOC
    if text.startswith("WEBVTT") or len(_CUE.findall(text)) > 1:
        yield msg("subtitles"), msg("numbers and times"), msg("remove those lines first")
    # The last line may be cut.
    lines = [line for line in text.split("\n")[:-1] if line.strip()][:200]
    if len(lines) > 3 and sum(bool(_CHAT_LINE.match(line)) for line in lines) > len(lines) / 2:
        kind, included = msg("an exported chat"), msg("times and names")
        yield kind, included, msg("remove what is not to be learned")
    if fields := json_fields(lines or [text]):
        advice = msg("--field NAME reads one field of {fields}", fields=_listed(fields))
        if "messages" in fields or {"prompt", "response"} <= set(fields):
            advice = msg("{advice}, and --chat with --from MODEL learns its answers", advice=advice)
        yield "JSON Lines", msg("keys, quotes and escapes"), advice
    if (found := re.match(r'\s*(\[\s*)?\{\s*"', text)) and re.search(r'"\s*:\s*["\d\[{tfn-]', text):
        advice = msg("--field NAME reads one field of its objects")
        if found[1] is None:
            advice = msg("write its records as JSON Lines, of which --field NAME reads one field")
        yield "JSON", msg("keys, quotes and escapes"), advice
    if fields := table_columns(lines, name):
        advice = msg("--field NAME reads one column of {fields}", fields=_listed(fields))
        yield msg("a table (CSV)"), msg("all columns, commas and quotes"), advice


def json_fields(lines: list[str]) -> list[str]:
    """The fields of a text's first lines if each is one JSON object, else none."""
    fields: dict[str, None] = {}
    for line in lines[:20]:
        if not line.lstrip().startswith("{"):
            return []
        try:
            fields |= dict.fromkeys(parse_json(line))
        except ValueError:
            return []
    return list(fields)


def delimiter(header: str) -> str:
    """What separates the columns of a table, by its first line."""
    return max(",\t;", key=header.count)


def table_columns(lines: list[str], name: str) -> list[str]:
    """The columns of a table by its first lines, none if these are not a table's."""
    if not lines:
        return []
    try:
        rows = list(csv.reader(lines[:50], delimiter=delimiter(lines[0])))
    except csv.Error:
        return []
    header = rows[0]
    names = {column.strip() for column in header}
    plain = all(0 < len(column) <= 40 and column == column.strip() for column in header)
    if len(header) < 2 or len(names) < len(header) or not plain:
        return []
    regular = len(rows) >= 5 and len(header) >= 3 and {len(row) for row in rows} == {len(header)}
    return header if regular or re.search(r"\.[ct]sv(\.\w+)?$", name) else []


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
