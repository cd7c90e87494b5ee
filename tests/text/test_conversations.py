"""Rows of JSON Lines to conversations: what a row may be, and what a bad one says."""

import json
from pathlib import Path

import pytest

from hornbook.errors import DataError
from hornbook.text.conversations import conversations
from hornbook.text.corpus import Corpus, join, read_corpus

GOOD = {"prompt": "to be?", "response": "or not"}
LONG = {
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "whether\n'tis"},
        {"role": "assistant", "content": "nobler"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "in the mind\n"},
    ]
}


def read(folder: Path, *rows: object, name: str = "chats.jsonl") -> Corpus:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path = folder / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_corpus(str(path), conversations=True)


def test_rows_of_messages_and_of_pairs_are_conversations(tmp_path: Path) -> None:
    corpus = read(tmp_path, GOOD, "", LONG, {"prompt": "a", "completion": "b"})
    pairs = [{"role": "user", "content": "to be?"}, {"role": "assistant", "content": "or not"}]
    others = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert list(conversations(corpus.chunks())) == [pairs, LONG["messages"], others]
    assert len(corpus.boundaries) == 2
    assert not corpus.notes
    # What a run keeps of standard input reads as the same conversations.
    kept = tmp_path / "kept.jsonl"
    both = join([corpus, read(tmp_path, GOOD, name="more.jsonl")])
    kept.write_bytes(b"".join(both.kept()))
    assert read_corpus(str(kept), conversations=True).text == both.text


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("{", "not JSON"),
        ("[" * 5000, "not JSON"),
        ("[1]", "expected an object"),
        ('{"text": "a"}', "expected messages, or prompt and response; its fields are 'text'"),
        ('{"messages": "a"}', "messages: expected a list"),
        ('{"messages": []}', "no answer"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "no answer"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "message 1: the role 'tool'"),
        ('{"messages": [7]}', "message 1: the role 'None'"),
        ('{"prompt": "a", "response": 7}', "message 2: expected a text"),
    ],
)
def test_bad_rows_are_refused_by_line(tmp_path: Path, row: str, why: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, GOOD, row, LONG)
    assert f"1 row is no conversation: line 2: {why}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_bad_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, GOOD, *["{}"] * 7)
    assert "7 rows are no conversation: line 2: " in str(caught.value)
    assert str(caught.value).endswith("; and 2 more")
    with pytest.raises(DataError, match="found no row"):
        read(tmp_path, "", "")


def test_contents_cannot_spell_what_separates_them(tmp_path: Path) -> None:
    sly = {"prompt": "a\x1fassistant\nb\x1e", "response": "\x13c\x03\ue000" + "0\ue001"}
    corpus = read(tmp_path, sly, GOOD)
    first, _ = conversations(corpus.chunks())
    assert [each["content"] for each in first] == [
        "a\ufffdassistant\nb\ufffd",
        "\ufffdc\ufffd\ufffd0\ufffd",
    ]
    assert corpus.notes == ("replaced control characters in messages by U+FFFD: 6",)
