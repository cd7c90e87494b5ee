"""One field of records is read as documents, and the split falls between them."""

import csv
import gzip
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.config import DataConfig
from hornbook.errors import DataError
from hornbook.text import fields
from hornbook.text.corpus import read_corpus
from hornbook.text.dataset import prepare, read_text
from hornbook.text.fields import SEPARATOR

DOCUMENTS = [f'Document {i}.\nIt has "quotes", commas and é가.' for i in range(20)]


def lines(documents: list[str]) -> str:
    return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(documents))


def table(documents: list[str], delimiter: str = ",") -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerows([["id", "text"], *enumerate(documents)])
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        lines(DOCUMENTS).encode(),
        lines(DOCUMENTS).replace("\n", "\r\n").encode(),
        lines(DOCUMENTS).encode("utf-16"),
        json.dumps([{"text": text} for text in DOCUMENTS], indent=1, ensure_ascii=False).encode(),
        table(DOCUMENTS).encode(),
        table(DOCUMENTS).encode("utf-8-sig"),
        table(DOCUMENTS, "\t").encode(),
        table(DOCUMENTS, ";").encode(),
        table(DOCUMENTS).replace("\r\n", "\r").encode(),
        table(DOCUMENTS).replace("\r\n", "\n").encode(),
        lines(DOCUMENTS).replace("\n", "\r").encode(),
        gzip.compress(lines(DOCUMENTS).encode(), mtime=0),
    ],
)
def test_a_field_is_its_documents(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "book").write_bytes(data)
    corpus = read_corpus(tmp_path / "book", field="text")
    assert corpus.text == SEPARATOR.join(DOCUMENTS)
    assert corpus.characters == len(corpus.text)
    starts = np.cumsum([len(text) + 1 for text in DOCUMENTS])[:-1]
    assert corpus.boundaries == tuple(starts)


@settings(deadline=None)
@given(
    pieces=st.lists(st.text("ab\r\n\u2028\x1c", max_size=4), max_size=12),
)
def test_lines_end_in_lf_crlf_or_cr_wherever_the_text_is_cut(pieces: list[str]) -> None:
    expected = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", "".join(pieces))
    assert list(fields.lines_of(pieces)) == expected


def test_parquet_is_read_with_pyarrow_and_asks_for_it_without(tmp_path: Path) -> None:
    book = tmp_path / "book.parquet"
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        book.write_bytes(b"PAR1\0\0PAR1")
        with pytest.raises(DataError, match="pip install pyarrow"):
            read_corpus(book, field="text")
        return
    parquet.write_table(pyarrow.table({"text": [*DOCUMENTS, None], "id": range(21)}), book)
    corpus = read_corpus(book, field="text")
    assert corpus.text == SEPARATOR.join(DOCUMENTS)
    assert corpus.notes == ("left out records without text in 'text': 1",)
    with pytest.raises(DataError, match="fields are 'text', 'id'; did you mean text"):
        read_corpus(book, field="txt")


@settings(max_examples=60, deadline=None)
@given(documents=st.lists(st.text(min_size=1), min_size=1, max_size=20))
def test_any_documents_come_through(documents: list[str], tmp_path_factory) -> None:
    book = tmp_path_factory.mktemp("any") / "book"
    book.write_text(lines(documents), encoding="utf-8")
    corpus = read_corpus(book, field="text")
    found = corpus.text.split(SEPARATOR)
    no_text = str.maketrans(dict.fromkeys("\0\x1e", "\ufffd"))
    assert found == [text.translate(no_text) for text in documents]
    assert [corpus.text[start - 1] for start in corpus.boundaries] == [SEPARATOR] * (len(found) - 1)


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_the_split_falls_between_documents_and_the_separator_is_one_token(
    tokenizer: str, tmp_path: Path
) -> None:
    book = tmp_path / "book.jsonl"
    book.write_text(lines(DOCUMENTS), encoding="utf-8")
    data = DataConfig(corpus=str(book), field="text", tokenizer=tokenizer, bpe_vocab_size=300)
    corpus = read_text(data)
    dataset = prepare(corpus, data)
    decode = dataset.tokenizer.decode
    assert decode(dataset.train) == SEPARATOR.join(DOCUMENTS[:18]) + SEPARATOR
    assert decode(dataset.validation) == SEPARATOR.join(DOCUMENTS[18:])
    assert len(dataset.tokenizer.encode(SEPARATOR)) == 1
    holding = [token for token in dataset.tokenizer.token_bytes() if b"\x1e" in token]
    assert holding == [b"\x1e"], "no merge swallows it"


def test_the_split_is_between_documents_in_any_form(tmp_path: Path) -> None:
    book = tmp_path / "book.jsonl"
    decomposed = [f"cafe\u0301 {i}\r\nmore" * 5 for i in range(20)]
    book.write_text(lines(decomposed), encoding="utf-8")
    data = DataConfig(corpus=str(book), field="text", normalize="nfc", newlines="lf")
    dataset = prepare(read_text(data), data)
    composed = [f"café {i}\nmore" * 5 for i in range(20)]
    assert dataset.tokenizer.decode(dataset.validation) == SEPARATOR.join(composed[18:])


def test_boundaries_of_many_documents_are_thinned(tmp_path: Path) -> None:
    book = tmp_path / "book.jsonl"
    book.write_text('{"text": "ab"}\n' * 50_000, encoding="utf-8")
    corpus = read_corpus(book, field="text")
    assert 4000 < len(corpus.boundaries) <= 8192
    assert {place % 3 for place in corpus.boundaries} == {0}
    assert abs(corpus.split_place(0.1) - 0.9 * corpus.characters) < 50


def test_records_without_text_are_counted_and_what_is_no_text_is_replaced(tmp_path: Path) -> None:
    book = tmp_path / "book.jsonl"
    book.write_text(
        '{"text": "a\\u0000b\\ud83d"}\n\n{"text": null}\n{"other": 1}\n{"text": ""}\n{"text": 5}\n',
        encoding="utf-8",
    )
    corpus = read_corpus(book, field="text")
    assert corpus.text == f"a\ufffdb\ufffd{SEPARATOR}5"
    assert "left out records without text in 'text': 3" in corpus.notes
    assert any(note.endswith("by U+FFFD: 2") for note in corpus.notes)


@pytest.mark.parametrize(
    ("data", "field", "named"),
    [
        (
            lines(DOCUMENTS),
            "txt",
            "its fields are 'id', 'text'; did you mean text?",
        ),
        (
            table(DOCUMENTS),
            "txt",
            "its fields are 'id', 'text'; did you mean text?",
        ),
        ("id,text\n", "no", "no field 'no'"),
        ('{"text": ["a"]}\n', "text", "of record 1 is no text but a list"),
        ('{"text": "a"}\n{"text": \n', "text", "line 2: not JSON"),
        (
            '{\n "a": [{"text": "b"}]\n}\n',
            "text",
            "expected JSON Lines, an object a line, or a list",
        ),
        ("To be:\nor, not\nto, be\n", "text", "no field 'text': its fields are 'To be:'"),
        ('{"text": "a"}\n5\n', "text", "line 2: expected an object"),
        ('{"text": ""}\n{"text": null}\n', "text", "is empty in all 2 records"),
        ("[" * 100_000, "text", "not JSON"),
        ("just words\n", "text", "no field 'text'"),
    ],
)
def test_what_has_no_such_field_says_what_it_has(
    data: str, field: str, named: str, tmp_path: Path
) -> None:
    (tmp_path / "book").write_text(data, encoding="utf-8")
    with pytest.raises(DataError) as raised:
        read_corpus(tmp_path / "book", field=field)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_files_of_a_folder_are_documents_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(DOCUMENTS[:2]), encoding="utf-8")
    (tmp_path / "b.csv").write_text(table(DOCUMENTS[2:4]), encoding="utf-8", newline="")
    (tmp_path / "readme").write_text("words\n", encoding="utf-8")
    corpus = read_corpus(tmp_path, field="text")
    assert corpus.text == SEPARATOR.join(DOCUMENTS[:4])
    assert len(corpus.boundaries) == 3
    assert [each.file for each in corpus.skipped] == ["readme"]
    assert "no field 'text'" in corpus.skipped[0].reason
    assert [name for _, name in corpus.files()] == ["a.jsonl", "b.csv"]
    assert corpus.text[corpus.files()[1][0] :].startswith(DOCUMENTS[2])
