"""Decoding in chunks is decoding: whatever the chunk's size, the text and the refusals are those
of the whole.
"""

import codecs

import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from hornbook.errors import DataError
from hornbook.text.decoding import NotTextError, decode
from hornbook.text.sources import BytesSource

ENCODINGS = ["utf-8", "utf-16", "utf-16-le", "utf-32", "cp949", "gb18030", "utf-7", "utf-8-sig"]
ENCODINGS += ["iso2022_kr", "shift_jis", "latin-1", "unicode_escape", "punycode"]


def in_chunks(data: bytes, encoding: str | None, size: int) -> tuple[str, list[str]]:
    notes: list[str] = []
    chunks = list(decode(BytesSource("it", data), encoding, notes, chunk_bytes=size))
    assert all(chunks)
    return "".join(chunks), notes


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    encoding=st.sampled_from(ENCODINGS),
    named=st.booleans(),
    size=st.integers(4, 40),
)
def test_any_text_comes_out_whole_whatever_the_chunks(
    text: str, encoding: str, named: bool, size: int
) -> None:
    # What is not named is found by its mark, or is UTF-8.
    assume(named or encoding in ("utf-8", "utf-16", "utf-32", "utf-8-sig"))
    data = text.encode(encoding, errors="ignore")
    try:
        expected = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError:  # Not all that Python writes as iso2022_kr does it read.
        reject()
    found, notes = in_chunks(data, encoding if named else None, size)
    assert found == expected
    assert (found, notes) == in_chunks(data, encoding if named else None, 1 << 20)


@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=60),
    # Of unicode_escape Python warns, where a backslash escapes nothing.
    encoding=st.sampled_from([None, None, "idna", *ENCODINGS[:-2], "punycode"]),
    # What is no text is known by its first bytes, which a chunk has whole.
    size=st.integers(16, 30),
)
def test_any_bytes_are_refused_or_read_alike(data: bytes, encoding: str | None, size: int) -> None:
    try:
        whole = in_chunks(data, encoding, 1 << 20)
    except DataError:
        with pytest.raises(NotTextError):
            in_chunks(data, encoding, size)
    else:
        assert in_chunks(data, encoding, size) == whole


@pytest.mark.parametrize("size", [4, 5, 7, 100, 1000])
@pytest.mark.parametrize(
    ("data", "encoding", "place"),
    [
        ("가나다\n".encode() * 20 + b"\xff" + b"more", None, "byte 0xff at offset 200"),
        (b"a" * 99 + "가".encode()[:2], None, "byte 0xea at offset 99"),
        (b"a" * 50 + "가".encode()[:2] + b"b" * 50, None, "byte 0xea at offset 50"),
        ("é".encode() * 30 + b"\0" + b"tail", None, "NUL character at offset 30"),
        (b"a" * 41 + b"\\ud800" + b"b" * 20, "unicode_escape", "surrogate pair at offset 41"),
        (codecs.BOM_UTF16_LE + "ab".encode("utf-16-le") * 20 + b"!", None, "0x21 at offset 82"),
    ],
)
def test_what_is_wrong_is_found_in_its_place(
    data: bytes, encoding: str | None, place: str, size: int
) -> None:
    with pytest.raises(NotTextError) as raised:
        in_chunks(data, encoding, size)
    assert place in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["utf-16", "utf-32"])
def test_a_named_encoding_without_its_mark_is_in_the_machines_order(name: str) -> None:
    data = "가나다".encode(name)[4 if name == "utf-32" else 2 :]
    assert in_chunks(data, name, 4) == ("가나다", [])
