"""Texts larger than memory: read from the disk in chunks, remembered, and never mistaken."""

import hashlib
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from hornbook.config import DataConfig
from hornbook.errors import DataError
from hornbook.storage import cache
from hornbook.text.arrays import release
from hornbook.text.corpus import read_corpus
from hornbook.text.dataset import prepare
from hornbook.text.sources import MAX_IN_MEMORY_BYTES, FileSource

LINE = "가나다라 the quick brown fox jumps over the lazy dog.\n"
LINES = 1 + MAX_IN_MEMORY_BYTES // len(LINE.encode())


@pytest.fixture(autouse=True)
def cache_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A file too large to be held in memory, written a while ago."""
    path = tmp_path / "book.txt"
    path.write_bytes(LINE.encode() * LINES)
    return path


def test_a_large_file_is_read_prepared_and_told_of_when_it_changes(book: Path) -> None:
    corpus = read_corpus(book)
    assert [type(part.source) for part in corpus.parts] == [FileSource]
    assert corpus.characters == len(LINE) * LINES
    assert corpus.sha256 == hashlib.sha256(book.read_bytes()).hexdigest()
    dataset = prepare(corpus, DataConfig())
    cut = int(0.9 * corpus.characters)
    assert (len(dataset.train), len(dataset.validation)) == (cut, corpus.characters - cut)
    whole = LINE * 3
    place = cut % len(LINE)
    decode = dataset.tokenizer.decode
    assert decode(dataset.train[-len(LINE) :]) == whole[place : place + len(LINE)]
    assert decode(dataset.validation[: len(LINE)]) == whole[place : place + len(LINE)]
    counts = np.bincount(dataset.train, minlength=dataset.tokenizer.vocab_size)
    counts += np.bincount(dataset.validation, minlength=dataset.tokenizer.vocab_size)
    assert counts.tolist() == [LINES * LINE.count(c) for c in sorted(set(LINE))]

    # One letter other, and the time of change put back: the system still knows.
    status = book.stat()
    with book.open("r+b") as file:
        file.write("라".encode())
    os.utime(book, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=r"book\.txt was changed while it was being read"):
        corpus.text  # noqa: B018
    again = read_corpus(book)
    assert again.sha256 == hashlib.sha256(book.read_bytes()).hexdigest() != corpus.sha256


def test_a_survey_is_remembered_for_the_same_file_alone(
    book: Path, cache_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_corpus(book)
    assert not list(cache_here.glob("surveys/*")), "a file just written may be written again"
    later = book.stat().st_ctime_ns + 10**10
    monkeypatch.setattr("time.time_ns", lambda: later)
    found = read_corpus(book)
    (folder,) = cache_here.glob("surveys/*")
    facts = json.loads((folder / "survey.json").read_text())
    assert facts["sha256"] == found.sha256
    # Another survey in its place shows that it, and not the file, is read.
    with cache.fill(folder) as place:
        (place / "survey.json").write_text(json.dumps(facts | {"notes": {"remembered": 1}}))
    assert read_corpus(book).notes == ("remembered",)
    assert read_corpus(book, encoding="utf-8").notes == ()
    with book.open("ab") as file:
        file.write(b"more")
    assert read_corpus(book).notes == ()


def test_a_large_folder_is_its_files(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf/a.txt").write_bytes((LINE * LINES).encode()[:-1])
    (tmp_path / "shelf/b.txt").write_bytes(b"\xef\xbb\xbfb")
    (tmp_path / "shelf/c.bin").write_bytes(b"text at first" * 1000 + b"\xff")
    corpus = read_corpus(tmp_path / "shelf")
    assert corpus.notes == (
        "removed a byte order mark (in 1 file)",
        "skipped 1 file that is UTF-8 but for a few bytes: c.bin; --encoding auto reads each file "
        "in its own encoding",
    )
    expected = (LINE * LINES + "b").encode()
    assert corpus.sha256 == hashlib.sha256(expected).hexdigest()
    assert corpus.text.encode() == expected


def test_a_large_standard_input_is_kept_on_the_disk_while_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pipe:
        buffer = io.BytesIO(LINE.encode() * LINES)

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(sys, "stdin", Pipe)
    corpus = read_corpus("-")
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    for _ in range(2):
        assert sum(chunk.count("\n") for chunk in corpus.chunks()) == LINES
    del corpus
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")
def test_a_large_mapped_array_is_let_go_of(tmp_path: Path) -> None:
    def mapped_kib() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssFile:")[1].split()[0])

    with (tmp_path / "tokens.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (300 << 20,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + (300 << 20))
    tokens = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    before = mapped_kib()
    assert not tokens[:: 1 << 12].any()
    assert mapped_kib() > before + 200_000
    release(tokens)
    assert mapped_kib() < before + 20_000
    assert not tokens[-1]
