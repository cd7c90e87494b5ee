"""Three tokenizers: round trips, unknown characters, and tokenizer.json here and in the library."""

import json
import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.errors import ConfigError, DataError, UnknownCharacterError
from hornbook.text.corpus import load_text
from hornbook.text.tokenizer import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    build_tokenizer,
    load_tokenizer,
)

SAMPLE = (
    "First Citizen:\nBefore we proceed any further, hear me speak.\r\n\n\tAll:  speak, speak!\n"
    "안녕하세요, 세상. 각\u1100\u1161 "
    "e\u0301 é 😀👩‍🚀 \u2028\u0085\x00\x1c \u3000x\ufeff\n\n\n  end   "
)
KINDS = ["char", "byte", "bpe"]

# A BPE that has learned merges across letters, spaces, Hangul and an emoji.
BPE = BPETokenizer.train(SAMPLE * 3, 400)


def tokenizer_of(kind: str, text: str) -> Tokenizer:
    return BPE if kind == "bpe" else build_tokenizer(kind, text)


def in_library(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(tokenizer.to_json())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=st.text(min_size=1))
def test_any_text_round_trips_and_the_library_agrees(kind, text):
    tokenizer = tokenizer_of(kind, text)
    ids = tokenizer.encode(text)
    array = tokenizer.encode_array(text)
    library = in_library(tokenizer)
    assert tokenizer.decode(ids) == text
    assert array.tolist() == ids
    assert tokenizer.decode(array) == text
    assert b"".join(tokenizer.token_bytes()[i] for i in ids) == text.encode()
    assert library.encode(text).ids == ids
    assert library.decode(ids) == text


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_ids_decode_as_in_the_library_even_to_broken_utf8(kind, data):
    tokenizer = tokenizer_of(kind, "")
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    assert tokenizer.decode(ids) == in_library(tokenizer).decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sample_of_hard_characters_is_the_same_in_the_library(kind, tmp_path):
    tokenizer = tokenizer_of(kind, SAMPLE)
    tokenizer.save(tmp_path / "tokenizer.json")
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode(SAMPLE).ids == tokenizer.encode(SAMPLE)
    assert library.decode(tokenizer.encode(SAMPLE)) == SAMPLE
    assert library.get_vocab_size() == tokenizer.vocab_size


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_loads_as_an_equal(kind, tmp_path):
    tokenizer = tokenizer_of(kind, SAMPLE)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert type(loaded) is type(tokenizer)
    assert loaded == tokenizer
    assert hash(loaded) == hash(tokenizer)
    assert loaded.kind == kind
    assert loaded.encode(SAMPLE) == tokenizer.encode(SAMPLE)


def test_different_tokenizers_are_not_equal():
    assert CharTokenizer("ab") != CharTokenizer("abc")
    assert CharTokenizer("ab") != ByteTokenizer()
    assert ByteTokenizer() != BPE
    assert BPETokenizer.train("", 256) != ByteTokenizer()


def test_a_file_the_library_has_written_again_still_loads(tmp_path):
    for kind in KINDS:
        tokenizer = tokenizer_of(kind, SAMPLE)
        in_library(tokenizer).save(str(tmp_path / "again.json"))
        assert load_tokenizer(tmp_path / "again.json") == tokenizer


@pytest.mark.parametrize(
    ("vocabulary", "dtype"),
    [("ab", np.uint8), (range(0x100, 0x200), np.uint8), (range(0x100, 0x201), np.uint16)],
)
def test_arrays_take_the_smallest_type_that_holds_the_vocabulary(vocabulary, dtype):
    chars = "".join(c if isinstance(c, str) else chr(c) for c in vocabulary)
    array = CharTokenizer(chars).encode_array(chars)
    assert array.dtype == dtype
    assert array.tolist() == list(range(len(chars)))


def test_more_than_65536_characters_take_four_bytes():
    chars = "".join(map(chr, range(0x10000, 0x20001)))
    array = CharTokenizer(chars).encode_array(chars[::-1])
    assert array.dtype == np.uint32
    assert array[0] == 0x10000
    assert array[-1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_can_be_written_to_and_empty_text_is_no_ids(kind):
    tokenizer = tokenizer_of(kind, SAMPLE)
    assert tokenizer.encode_array(SAMPLE).flags.writeable
    assert tokenizer.encode_array("").shape == (0,)
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


def test_long_texts_are_cut_into_chunks_without_a_seam():
    text = ("ascii only, " * 30_000 + "그리고 한국어 " * 30_000 + "\n") * 2
    tokenizer = CharTokenizer.from_text(text)
    assert tokenizer.encode_array(text).tolist() == [tokenizer.stoi[c] for c in text]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "'s", " ", "\n", "\r\n", "é", "가", "1", "\x1c", "\u0085", "!"]))
)
def test_bpe_chunks_give_the_ids_of_the_whole_text(pieces):
    text = "".join(pieces)
    # Long enough to be cut where the drawn pieces lie.
    padded = "x" * ((1 << 14) - 2) + text + " tail" + text + "\n"
    assert BPE.encode(padded) == in_library(BPE).encode(padded).ids


def test_decode_takes_arrays_tensors_and_iterators():
    tokenizer = CharTokenizer("abc")
    assert tokenizer.decode(np.array([2, 0], np.uint8)) == "ca"
    assert tokenizer.decode(torch.tensor([2, 0])) == "ca"
    assert tokenizer.decode(iter([2, 0])) == "ca"
    assert tokenizer.decode([np.int64(2)]) == "c"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [-1, 10**6, 10**30, 0.5, None, "a", [0], {}])
def test_an_id_outside_the_vocabulary_is_named(kind, bad):
    tokenizer = tokenizer_of(kind, SAMPLE)
    with pytest.raises(DataError) as raised:
        tokenizer.decode([0, bad])
    message = str(raised.value)
    assert f"got {str(bad)[:40]}" in message
    assert str(tokenizer.vocab_size) in message
    assert "\n" not in message


def test_a_two_dimensional_array_is_refused():
    with pytest.raises(DataError, match=r"got \[0, 1\]"):
        CharTokenizer("abc").decode(np.array([[0, 1]]))


# Unknown characters


@pytest.mark.parametrize(
    ("text", "pointed_at", "named"),
    [
        ("one\nto bé or\ntwo", "é", "LATIN SMALL LETTER E WITH ACUTE, U+00E9"),
        ("안녕 세계", "계", "HANGUL SYLLABLE GYE, U+ACC4"),
        ("a\tb", "␉", "TAB, U+0009"),
        ("ab\x00", "␀", "NULL, U+0000"),
        ("a\x9bb", "\ufffd", "a control character, U+009B"),
        ("😀", "😀", "GRINNING FACE, U+1F600"),
        ("ab\ue000", "\ufffd", "private use, U+E000"),
        ("a\udc80", "\ufffd", "half a surrogate pair, U+DC80"),
        ("to be, " * 30 + "☃" + " or not" * 30, "☃", "SNOWMAN, U+2603"),
    ],
)
def test_an_unknown_character_is_pointed_at(text, pointed_at, named):
    tokenizer = CharTokenizer("abenort,: wo\n안녕세")
    for encode in (tokenizer.encode, tokenizer.encode_array, tokenizer.fit):
        with pytest.raises(UnknownCharacterError) as raised:
            encode(text)
        head, excerpt, caret, remedy = str(raised.value).split("\n")
        assert named in head
        assert "--unknown skip" in remedy
        assert "--unknown replace" in remedy
        assert len(excerpt) < 80
        # The caret's column counts two for each wide character before it.
        before = excerpt[: excerpt.index(pointed_at)]
        wide = sum(unicodedata.east_asian_width(c) == "W" for c in before)
        assert caret == " " * (len(before) + wide) + "^"


def test_the_position_and_the_line_of_an_unknown_character_are_counted_from_one():
    with pytest.raises(UnknownCharacterError, match="character 6 of the text, on line 2:"):
        CharTokenizer("ab\n").encode("aaa\nbX")


def test_the_caret_of_a_combining_mark_is_under_its_letter():
    with pytest.raises(UnknownCharacterError) as raised:
        CharTokenizer("cafe").encode("cafe\u0301")
    _, excerpt, caret, _ = str(raised.value).split("\n")
    assert excerpt[caret.index("^")] == "e"


def test_an_unknown_character_far_into_a_long_text_is_found():
    text = "ab" * 400_000
    with pytest.raises(UnknownCharacterError, match="character 800,001 "):
        CharTokenizer("ab").encode_array(text + "é")


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_half_a_surrogate_pair_is_all_that_bytes_do_not_know(kind):
    tokenizer = tokenizer_of(kind, "")
    with pytest.raises(UnknownCharacterError, match="half a surrogate pair, U\\+DC80"):
        tokenizer.encode("a\udc80")
    assert tokenizer.fit("a\udc80☃", "replace")[0] == "a?☃"
    assert tokenizer.fit("a\udc80☃", "skip")[0] == "a☃"


@pytest.mark.parametrize(
    ("text", "fitted"),
    [
        ("“Don’t”—ﬁn…", '"Don\'t"-fin...'),
        ("café ÉTÉ", "cafe ete"),
        ("ＡＢＣ", "abc"),
        ("zero\u200dwidth\ufeff", "zerowidth"),
        ("tab\tand\u00a0space", "tab and space"),
        ("☃漢", "??"),
    ],
)
def test_replace_takes_the_closest_known_characters(text, fitted):
    tokenizer = CharTokenizer("\"'-.? abcdefhinoprstwzDtuy")
    assert tokenizer.fit(text, "replace")[0] == fitted
    assert tokenizer.decode(tokenizer.encode(fitted)) == fitted


def test_replace_falls_back_to_a_space_and_then_to_the_first_character():
    assert CharTokenizer("a b").fit("☃", "replace")[0] == " "
    assert CharTokenizer("ab").fit("☃", "replace")[0] == "a"


def test_fit_says_what_it_changed():
    tokenizer = CharTokenizer("abcdefgh? ")
    assert tokenizer.fit("abc", "replace") == ("abc", "")
    assert tokenizer.fit("éé☃", "replace") == (
        "ee?",
        "3 characters were outside the vocabulary and replaced: 'é'→'e' (2), '☃'→'?'",
    )
    assert tokenizer.fit("a☃b", "skip") == (
        "ab",
        "1 character was outside the vocabulary and skipped: '☃'",
    )
    note = tokenizer.fit("☀☁☂☃★☆☇", "skip")[1]
    assert note.endswith("and 2 other kinds")
    assert note.startswith("7 characters")


@pytest.mark.parametrize("policy", ["skip", "replace"])
def test_decomposed_hangul_is_composed_before_anything_is_lost(policy):
    tokenizer = CharTokenizer("안녕하세요 ")
    apart = unicodedata.normalize("NFD", "안녕 하세요")
    assert len(apart) > 6
    assert tokenizer.fit(apart, policy) == ("안녕 하세요", "the text was composed (NFC)")


@settings(max_examples=150, deadline=None)
@given(st.text(min_size=1), st.text(st.characters()), st.sampled_from(["skip", "replace"]))
def test_what_fits_can_be_encoded(vocabulary, text, policy):
    tokenizer = CharTokenizer(vocabulary)
    fitted, note = tokenizer.fit(text, policy)
    assert tokenizer.decode(tokenizer.encode(fitted)) == fitted
    assert bool(note) == (fitted != text)
    assert "\n" not in note


def test_another_policy_is_refused():
    with pytest.raises(ConfigError, match="did you mean replace"):
        CharTokenizer("a").fit("b", "replaces")


# Building


def test_the_public_tables_of_the_lecture():
    tokenizer = CharTokenizer.from_text("banana")
    assert tokenizer.chars == "abn"
    assert tokenizer.stoi == {"a": 0, "b": 1, "n": 2}
    assert tokenizer.itos == {0: "a", 1: "b", 2: "n"}


def test_byte_ids_are_the_bytes():
    assert ByteTokenizer().encode("é\n") == [0xC3, 0xA9, 0x0A]
    assert ByteTokenizer().decode([0xC3]) == "\ufffd"


def test_bpe_merges_what_comes_often_and_trains_the_same_each_time():
    text = load_text("python-docs")[:100_000]
    tokenizer = BPETokenizer.train(text, 500)
    assert tokenizer.vocab_size == 500
    assert tokenizer == BPETokenizer.train(text, 500)
    assert len(tokenizer.encode(text)) < 0.7 * len(text.encode())
    assert b" the" in tokenizer.token_bytes()


def test_bpe_stops_where_no_pair_comes_twice():
    assert BPETokenizer.train("ab", 1000).vocab_size == 256


@pytest.mark.parametrize(
    ("build", "error", "named"),
    [
        (lambda: build_tokenizer("chars", "a"), ConfigError, "did you mean char?"),
        (lambda: build_tokenizer("word", "a"), ConfigError, "char, byte, bpe"),
        (lambda: build_tokenizer("bpe", "a", vocab_size=255), ConfigError, "at least 256"),
        (lambda: build_tokenizer("char", ""), DataError, "empty"),
        (lambda: build_tokenizer("char", "a\ud800"), DataError, "U+D800"),
        (lambda: build_tokenizer("bpe", "a\ud800"), DataError, "U+D800"),
    ],
)
def test_what_cannot_be_built_is_refused(build, error, named):
    with pytest.raises(error) as raised:
        build()
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


# Files that are not ours


def changed(kind: str, *path: str, value: object) -> str:
    document = json.loads(tokenizer_of(kind, "ab").to_json())
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(document)


BYTES = json.loads(BPE.to_json())["model"]["vocab"]
HOSTILE = {
    "not JSON": ("{", "not JSON"),
    "not text": (b"\xff\xfe\x00", "not JSON"),
    "empty": ("", "not JSON"),
    "deep": ("[" * 200_000, "not JSON"),
    "long number": ("1" * 10_000, "not JSON"),
    "a list": ("[]", "no model"),
    "null": ("null", "no model"),
    "model is a list": ('{"model": []}', "no model"),
    "nothing else": ('{"model": {"type": "WordLevel"}}', "expected version"),
    "unhashable type": ('{"model": {"type": []}}', "expected"),
    "other model": (changed("bpe", "model", "type", value="Unigram"), "Unigram"),
    "normalizer": (changed("char", "normalizer", value={"type": "Lowercase"}), "normalizer"),
    "added token": (changed("char", "added_tokens", value=[{"id": 9}]), "added tokens"),
    "dropout": (changed("bpe", "model", "dropout", value=0.5), "dropout"),
    "long value": (changed("bpe", "decoder", value="x" * 10_000), "xxx..."),
    "huge id": (changed("char", "model", "vocab", value={"a": 10**15}), "code point"),
    "negative id": (changed("char", "model", "vocab", value={"a": -1}), "code point"),
    "word": (changed("char", "model", "vocab", value={"ab": 0}), "one character"),
    "no vocabulary": (changed("char", "model", "vocab", value={}), "one character"),
    "surrogate": (changed("char", "model", "vocab", value={"\ud800": 0}), "U+D800"),
    "vocabulary is a list": (changed("char", "model", "vocab", value=["a"]), "whole numbers"),
    "float id": (changed("char", "model", "vocab", value={"a": 0.0}), "whole numbers"),
    "true id": (changed("char", "model", "vocab", value={"a": False}), "whole numbers"),
    "huge bpe id": (changed("bpe", "model", "vocab", value=BYTES | {"a": 10**15}), "each once"),
    "same id": (changed("bpe", "model", "vocab", value=BYTES | {"a": 0}), "each once"),
    "bytes missing": (changed("bpe", "model", "vocab", value={"a": 0}), "256 bytes"),
    "foreign": (changed("bpe", "model", "vocab", value=BYTES | {"가": len(BYTES)}), "alphabet"),
    "empty token": (changed("bpe", "model", "vocab", value=BYTES | {"": len(BYTES)}), "alphabet"),
    "merge of nothing": (changed("bpe", "model", "merges", value=[["zq", "x"]]), "merges"),
    "merge of three": (changed("bpe", "model", "merges", value=[["a", "b", "c"]]), "merges"),
    "merge of numbers": (changed("bpe", "model", "merges", value=[[1, 2]]), "merges"),
    "merges is a string": (changed("bpe", "model", "merges", value="ab"), "merges"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_malformed_file_is_one_clear_line(case, tmp_path):
    content, named = HOSTILE[case]
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as raised:
        load_tokenizer(path)
    message = str(raised.value)
    assert named in message
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 600


def test_files_that_are_none_are_one_clear_line(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json: No such file"):
        load_tokenizer(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="Is a directory"):
        load_tokenizer(tmp_path)
    with pytest.raises(DataError, match="cannot write the tokenizer"):
        CharTokenizer("a").save(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        CharTokenizer("a").save(tmp_path / "nowhere" / "tokenizer.json")


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.touch()
    os.truncate(path, 1 << 34)
    with pytest.raises(DataError, match="too large"):
        load_tokenizer(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match="no regular file"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_characters_and_bytes_need_neither_torch_nor_tokenizers(tmp_path):
    CharTokenizer("ab").save(tmp_path / "char.json")
    ByteTokenizer().save(tmp_path / "byte.json")
    script = (
        "import sys; from hornbook.text.tokenizer import load_tokenizer\n"
        "for name in ('char.json', 'byte.json'):\n"
        "    t = load_tokenizer(name); assert t.decode(t.encode('ab')) == 'ab'\n"
        "print(sorted({'torch', 'tokenizers', 'fsspec'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# Texts in chunks


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(), cuts=st.lists(st.integers(0, 50), max_size=5))
def test_a_text_in_chunks_has_the_ids_of_the_whole(kind, text, cuts):
    tokenizer = tokenizer_of(kind, text + "a")
    places = sorted(min(cut, len(text)) for cut in cuts)
    chunks = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    found = list(tokenizer.encode_chunks(chunks))
    assert sum(length for length, _ in found) == len(text)
    assert [i for _, ids in found for i in ids.tolist()] == tokenizer.encode(text)


def test_merges_of_a_long_text_in_chunks_can_be_gone_on_with_at_each():
    text = load_text("python-docs") * 5
    tokenizer = BPETokenizer.train([text[:50_000], text[50_000:100_000]], 300)
    assert tokenizer == BPETokenizer.train(text[:100_000], 300)
    found = list(tokenizer.encode_chunks(text[i : i + 99_999] for i in range(0, len(text), 99_999)))
    assert len(found) > 2
    (length, first), *others = found
    rest = np.concatenate([ids for _, ids in others])
    assert np.array_equal(tokenizer.encode_array(text[length:]), rest)
    assert np.array_equal(tokenizer.encode_array(text), np.concatenate([first, rest]))


def test_characters_of_chunks_are_those_of_the_text():
    chunks = ["abc", "", "가나", "\x7f\x80é", "cab😀", "가"]
    assert CharTokenizer.from_chunks(chunks) == CharTokenizer("".join(chunks))
    with pytest.raises(DataError, match="empty"):
        CharTokenizer.from_chunks([])


def test_a_stranger_in_a_later_chunk_is_placed_in_the_whole_text():
    tokenizer = CharTokenizer("ab\n")
    chunks = ["ab\n", "abab\n\n", "bax"]
    with pytest.raises(UnknownCharacterError) as raised:
        list(tokenizer.encode_chunks(chunks))
    assert "character 12 of the text, on line 4:" in str(raised.value)


# The real corpora


def test_shakespeare_is_the_lectures(shakespeare_path):
    text = shakespeare_path.read_bytes().decode()
    tokenizer = CharTokenizer.from_text(text)
    assert len(text) == 1_115_394
    assert tokenizer.chars == "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert tokenizer.vocab_size == 65
    assert tokenizer.encode("hii there") == [46, 47, 47, 1, 58, 46, 43, 56, 43]
    assert tokenizer.decode([46, 47, 47, 1, 58, 46, 43, 56, 43]) == "hii there"
    array = tokenizer.encode_array(text)
    assert array.dtype == np.uint8
    assert tokenizer.decode(array) == text


def test_bpe_of_shakespeare_is_the_same_in_chunks_and_in_the_library(shakespeare_path):
    text = shakespeare_path.read_bytes().decode()
    tokenizer = BPETokenizer.train(text[:300_000], 512)
    ids = tokenizer.encode(text)
    assert in_library(tokenizer).encode(text).ids == ids
    assert tokenizer.decode(ids) == text


def test_korean_characters_and_merges(data_dir):
    text = (data_dir / "korean-novels" / "input.txt").read_bytes().decode()
    tokenizer = CharTokenizer.from_text(text)
    assert len(text) == 312_604
    assert tokenizer.vocab_size == 1_367
    array = tokenizer.encode_array(text)
    assert array.dtype == np.uint16
    assert tokenizer.decode(array) == text
    assert in_library(tokenizer).encode(text[:20_000]).ids == array[:20_000].tolist()
    merged = BPETokenizer.train(text[:50_000], 400)
    assert merged.decode(merged.encode(text)) == text
    assert in_library(merged).encode(text).ids == merged.encode(text)
