"""Cutting files into units: every document once, whatever the size of a unit."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.errors import ConfigError, DataError
from hornbook.preparation import documents as reading_of
from hornbook.preparation.documents import Document, Reading, read_unit, units_of
from hornbook.preparation.files import list_files

LINES = "".join(f"{i}: 죽느냐 사느냐, 그것이 문제로다.\n" * (1 + i % 3) for i in range(60))


def read(path: Path, reading: Reading, unit_bytes: int) -> list[list[Document]]:
    files = list_files([str(path)])
    units = units_of(files, reading, unit_bytes)
    return [[*read_unit(unit, files, reading, {})] for unit in units]


@given(text=st.text("가나b \n", max_size=300), unit_bytes=st.integers(1, 200))
@settings(max_examples=25, deadline=None)
def test_parts_of_a_text_make_the_whole(
    tmp_path_factory: pytest.TempPathFactory, text: str, unit_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "text.txt"
    path.write_bytes(text.encode())
    found = read(path, Reading(), unit_bytes) if text else []
    assert "".join(each.text for unit in found for each in unit) == text
    assert len(found) >= len(text.encode()) // unit_bytes - 1


@given(unit_bytes=st.integers(5, 2000))
@settings(max_examples=30, deadline=None)
def test_each_record_is_of_one_part(
    tmp_path_factory: pytest.TempPathFactory, unit_bytes: int
) -> None:
    texts = [f"문서 {i} " * (i % 7 + 1) for i in range(40)]
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    path.write_text("".join(json.dumps({"t": text}) + "\n" for text in texts), encoding="utf-8")
    found = read(path, Reading(field="t"), unit_bytes)
    assert [each.text for unit in found for each in unit] == texts


@given(unit_bytes=st.integers(5, 2000))
@settings(max_examples=30, deadline=None)
def test_documents_between_separators_are_whole(
    tmp_path_factory: pytest.TempPathFactory, unit_bytes: int
) -> None:
    texts = [f"하나 {i}\n둘\n" * (i % 5 + 1) for i in range(40)]
    path = tmp_path_factory.mktemp("separated") / "all.txt"
    path.write_text("<|end|>".join(texts), encoding="utf-8")
    found = read(path, Reading(separator="<|end|>"), unit_bytes)
    assert [each.text for unit in found for each in unit if each.text] == texts


def test_a_long_text_is_passages_that_end_with_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_of, "ONE_DOCUMENT", 500)
    monkeypatch.setattr(reading_of, "PASSAGE", 100)
    (tmp_path / "long.txt").write_text(LINES, encoding="utf-8")
    (tmp_path / "short.txt").write_text(LINES[:400], encoding="utf-8")
    (found,) = read(tmp_path, Reading(), 1 << 20)
    long, short = found[:-1], found[-1]
    assert "".join(each.text for each in long) == LINES
    assert all(each.text.endswith("\n") and len(each.text) <= 100 for each in long)
    assert [each.follows for each in long] == [False, *[True] * (len(long) - 1)]
    assert short == Document(LINES[:400])


def test_small_files_share_a_unit_and_compressed_ones_are_not_cut(tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / f"{i}.txt").write_text(f"number {i}\n" * 10, encoding="utf-8")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(LINES.encode()))
    found = read(tmp_path, Reading(), 300)
    assert [len(unit) for unit in found] == [3, 3, 3, 1]
    assert found[-1][0].text == LINES


def test_what_is_no_text_is_skipped_in_a_folder_and_an_error_by_its_name(tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"\x80abc" * 40)
    (tmp_path / "good.txt").write_text("good", encoding="utf-8")
    files, skipped = list_files([str(tmp_path)]), dict[str, str]()
    (unit,) = units_of(files, Reading(), 1 << 20)
    assert [each.text for each in read_unit(unit, files, Reading(), skipped)] == ["good"]
    assert [*skipped] == [str(bad)]
    with pytest.raises(DataError, match="is not utf-8"):
        read(bad, Reading(encoding="utf-8"), 1 << 20)


def test_forms_and_groups(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("e\u0301\r\nx".encode())
    (tmp_path / "b.txt").write_text("code", encoding="utf-8")
    files = list_files([f"web={tmp_path}/a*", f"code={tmp_path / 'b.txt'}"])
    reading = Reading(newlines="lf", normalize="nfc")
    units = units_of(files, reading, 1 << 20)
    assert [unit.group for unit in units] == ["web", "code"]
    assert [each.text for each in read_unit(units[0], files, reading, {})] == ["é\nx"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["-"], "standard input cannot be read in parts"),
        (["nothing-*"], "expected files, found none"),
        (["nothing.txt"], "it no longer exists|no file"),
        (["a.txt", "a.txt"], "is given twice"),
    ],
)
def test_sources_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    with pytest.raises((DataError, ConfigError), match=message):
        list_files(sources)
