"""Files that hold no text say what they are; compressed ones are read; structure is remarked on."""

import bz2
import gzip
import io
import lzma
import random
import string
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from hornbook.text.corpus import Corpus, read_corpus
from hornbook.text.decoding import NotTextError

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak. 가\n" * 3000
COMPRESSORS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
# As the libraries write it, zstd has the length of the text but no checksum.
UNCHECKED = {
    "zstd": zstandard.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_NONE),
}
REMARK = "without a checksum: damage may go unnoticed"


def archive(**files: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as opened:
        for name, content in files.items():
            opened.writestr(name.replace("__", "/").replace("_", "."), content)
    return data.getvalue()


def tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as opened:
        opened.addfile(tarfile.TarInfo("a.txt"))
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "kind", "advice"),
    [
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "a PDF document", "pdftotext"),
        (b"%PDF-1.4\n1 0 obj in ASCII", "a PDF document", "pdftotext"),
        (archive(word__document_xml="<w/>"), "a Word document", "pandoc"),
        (archive(xl__workbook_xml="<w/>"), "an Excel workbook", "CSV"),
        (archive(mimetype="application/epub+zip"), "an EPUB book", "pandoc"),
        (
            archive(mimetype="application/vnd.oasis.opendocument.text"),
            "an OpenDocument text",
            "pandoc",
        ),
        (archive(a_txt="text"), "a zip archive", "unpack"),
        (tar(), "a tar archive", "unpack"),
        (gzip.compress(tar(), mtime=0), "a tar archive", "unpack"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "Word 97 or HWP", "save it as text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(10), "an image (PNG)", "tesseract"),
        (b"\xff\xd8\xff\xe0" + bytes(10), "an image (JPEG)", "tesseract"),
        (b"GIF89a" + bytes(10), "an image (GIF)", "tesseract"),
        (b"RIFF\1\2\3\4WEBPVP8 ", "an image (WebP)", "tesseract"),
        (b"ID3\3\0", "a sound recording", "whisper"),
        (b"SQLite format 3\0", "an SQLite database", "CSV"),
        (b"PAR1\0\1", "a Parquet table", "--field"),
    ],
    # Not the bytes: an archive holds the time it was made, and every worker collects these names.
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_what_is_no_text_is_named_with_what_would_get_its_text(
    data: bytes, kind: str, advice: str, tmp_path: Path
) -> None:
    (tmp_path / "book").write_bytes(data)
    for encoding in (None, "latin-1", "auto"):
        with pytest.raises(NotTextError) as raised:
            read_corpus(tmp_path / "book", encoding=encoding)
        assert kind in str(raised.value)
        assert advice in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_compressed_text_is_read_as_the_text(name: str, tmp_path: Path) -> None:
    compress: Callable[[bytes], bytes] = COMPRESSORS[name]
    (tmp_path / "plain").write_text(TEXT, encoding="utf-8")
    book = tmp_path / "book"
    book.write_bytes(compress(TEXT.encode()))
    found = read_corpus(book)
    assert found.text == TEXT
    assert found.sha256 == read_corpus(tmp_path / "plain").sha256
    assert found.notes == (f"decompressed ({name})",)
    half = len(TEXT) // 2
    book.write_bytes(compress(TEXT[:half].encode()) + compress(TEXT[half:].encode()))
    assert read_corpus(book).text == TEXT, "several in one file"
    book.write_bytes(compress(TEXT.encode("cp949")))
    assert read_corpus(book, encoding="cp949").text == TEXT
    with pytest.raises(NotTextError, match="looks like cp949"):
        read_corpus(book)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_compressed_text_that_is_cut_off_or_damaged_is_refused(name: str, tmp_path: Path) -> None:
    data = COMPRESSORS[name](TEXT.encode())
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0xFF
    for wrong in (data[:-9], data[: len(data) // 2], bytes(damaged)):
        (tmp_path / "book").write_bytes(wrong)
        with pytest.raises(NotTextError, match=f"{name} data are damaged or cut off"):
            read_corpus(tmp_path / "book")


def readings(data: bytes, book: Path) -> Iterator[Corpus | NotTextError]:
    """What is read of compressed data with one byte changed, for many of the bytes."""
    for at in range(0, len(data), max(1, len(data) // 60)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        book.write_bytes(damaged)
        try:
            yield read_corpus(book)
        except NotTextError as error:
            yield error


@pytest.mark.parametrize("name", COMPRESSORS)
def test_with_a_checksum_no_damage_is_read_as_another_text(name: str, tmp_path: Path) -> None:
    noise = random.Random(1).choices(string.printable, k=4000)
    text = "".join(noise).replace("\r", " ")
    found = list(readings(COMPRESSORS[name](text.encode()), tmp_path / "book"))
    assert any(isinstance(each, NotTextError) for each in found)
    assert all(each.text == text for each in found if isinstance(each, Corpus))


@pytest.mark.parametrize("name", UNCHECKED)
def test_without_a_checksum_what_is_read_says_so(name: str, tmp_path: Path) -> None:
    """Damage is refused, or read with the remark; of zstd with a length, only that many bytes."""
    text = "".join(random.Random(1).choices(string.ascii_letters, k=4000))
    data, book = UNCHECKED[name](text.encode()), tmp_path / "book"
    book.write_bytes(data)
    assert read_corpus(book).notes == (f"decompressed ({name}, {REMARK})",)
    found = [each for each in readings(data, book) if isinstance(each, Corpus)]
    if name == "zstd":  # damaged xz rarely decodes to its end
        assert any(each.text != text for each in found), "it has no checksum indeed"
    for each in found:
        if each.notes[0].startswith("decompressed"):
            assert REMARK in each.notes[0]
        assert len(each.text.encode()) == len(text)
    checked = COMPRESSORS[name](text.encode())
    book.write_bytes(checked + data)
    if name == "zstd":
        assert REMARK in read_corpus(book).notes[0], "one of several frames"


@pytest.mark.parametrize("length", [0, 4, 300_000])
def test_skippable_frames_of_zstd_are_skipped(length: int, tmp_path: Path) -> None:
    """pzstd begins each frame with one that holds its size."""
    frames = [b"\x50\x2a\x4d\x18" + length.to_bytes(4, "little") + bytes(length)]
    frames.append(COMPRESSORS["zstd"](TEXT.encode()))
    (tmp_path / "book").write_bytes(b"".join(frames * 2))
    corpus = read_corpus(tmp_path / "book")
    assert corpus.text == TEXT * 2
    assert corpus.notes == ("decompressed (zstd)",)
    frames[1] = UNCHECKED["zstd"](TEXT.encode())
    (tmp_path / "book").write_bytes(b"".join(frames * 2))
    assert REMARK in read_corpus(tmp_path / "book").notes[0]


@pytest.mark.parametrize(
    ("text", "kind", "advice"),
    [
        ("<!DOCTYPE html>\n<html><body>Words</body></html>\n", "HTML", "pandoc"),
        ('<?xml version="1.0"?>\n<!-- x -->\n<html xmlns="x"></html>\n', "HTML", "pandoc"),
        ('<?xml version="1.0"?>\n<book></book>\n', "XML", "pandoc"),
        ("{\\rtf1\\ansi Words}\n", "RTF", "pandoc"),
        ('{"id": 1, "text": "a\\nb"}\n{"id": 2, "text": "c"}\n', "JSON Lines", "of id, text"),
        ('{"id": 1, "text": "one line, no end"}', "JSON Lines", "of id, text"),
        ('[\n {\n  "text": "a"\n }\n]\n', "JSON", "--field NAME reads one field of its objects"),
        ('{\n "messages": [\n  {"text": "a"}\n ]\n}\n', "JSON", "write its records as JSON Lines"),
        ("id,text,when\n" + '1,"a, b",now\n' * 5, "a table (CSV)", "of id, text, when"),
        ("id\ttext\twhen\n" + "1\ta\tnow\n" * 5, "a table (CSV)", "of id, text, when"),
        (
            "1\n00:00:01,000 --> 00:00:02,000\nHi\n\n2\n00:00:03,000 --> 00:00:04,000\n",
            "subtitles",
            "",
        ),
        ("id,text,when\r" + "1,a,now\r" * 5, "a table (CSV)", "of id, text, when"),
        ("WEBVTT\n\n00:01.000 --> 00:02.000\nHi\n", "subtitles", ""),
        ("2024년 1월 1일 오후 3:12, 홍길동 : 안녕\n" * 5, "an exported chat", ""),
        ("[홍길동] [오후 3:12] 안녕\n" * 5, "an exported chat", ""),
        ("12/31/23, 10:15 PM - Name: hi\n" * 5, "an exported chat", ""),
        ("[31.12.23, 22:15:03] Name: hi\n" * 5, "an exported chat", ""),
    ],
)
def test_a_text_with_structure_is_remarked_on_and_kept(
    text: str, kind: str, advice: str, tmp_path: Path
) -> None:
    (tmp_path / "book").write_bytes(text.encode())
    found = read_corpus(tmp_path / "book")
    assert found.text == text
    (note,) = found.notes
    assert f"looks like {kind}:" in note
    assert "trained on as they stand" in note
    assert advice in note


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "One, two, three.\nFour, five, six.\nSeven, eight, nine.\n" * 5,
        "def f(a, b, c):\n    return {'a': a}\n" * 5,
        "{curly} words\n",
        "At 10:15 he said: hello\nand went\n" * 5,
        "<b>a</b> tag in a text\n",
    ],
)
def test_plain_texts_have_no_remark(text: str, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    assert read_corpus(tmp_path / "book.txt").notes == ()


@pytest.mark.parametrize("name", ["python-docs", "shakespeare", "korean-novels"])
def test_the_known_corpora_have_no_remark(name: str, data_dir, monkeypatch) -> None:
    monkeypatch.setenv("HORNBOOK_DATA_DIR", str(data_dir))
    assert read_corpus(name).notes == ()
