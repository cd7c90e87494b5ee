"""The suffix array, checked against a search for ever longer pieces with `in`."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.errors import CheckpointError, ConfigError
from hornbook.ngram.suffix_array import Match, SuffixArray
from hornbook.storage.lock import Lock

# Few letters make long repeats; these take one to four bytes of UTF-8, and one is half a pair.
ALPHABETS = ("a", "ab", "ab\n", "아가각a", "a é가😀👍🏽", "\ud83d\udc4d가b")
texts = st.sampled_from(ALPHABETS).flatmap(lambda letters: st.text(letters, max_size=60))


def lengths_by_growing(training: str, text: str) -> list[int]:
    """The slow, obvious reference."""
    lengths = [0] * len(text)
    for start in range(len(text)):
        end = start
        while end < len(text) and text[start : end + 1] in training:
            end += 1
        for place in range(start, end):
            lengths[place] = max(lengths[place], end - start)
    return lengths


def places(training: str, piece: str) -> list[int]:
    return [at for at in range(len(training)) if training.startswith(piece, at)]


@settings(deadline=None)
@given(training=texts, text=texts, at_least=st.integers(1, 8))
def test_match_lengths_are_those_of_growing_every_piece(
    training: str, text: str, at_least: int
) -> None:
    index = SuffixArray.build(training)
    expected = lengths_by_growing(training, text)
    assert index.match_lengths(text).dtype == np.int64
    assert index.match_lengths(text).tolist() == expected
    assert index.match_lengths(text, at_least).tolist() == [
        length if length >= at_least else 0 for length in expected
    ]


@settings(deadline=None)
@given(data=st.data(), training=st.text(st.sampled_from("ab가😀\n"), min_size=1, max_size=400))
def test_pieces_of_the_training_text_are_found_whole(data: st.DataObject, training: str) -> None:
    start = data.draw(st.integers(0, len(training) - 1))
    end = data.draw(st.integers(start + 1, len(training)))
    piece = training[start:end]
    index = SuffixArray.build(training)
    assert index.match_lengths(f"{piece}?{piece}").tolist() == (
        [len(piece)] * len(piece) + [0] + [len(piece)] * len(piece)
    )
    found = places(training, piece)
    assert index.matches(f"?{piece}", at_least=1) == [Match(1, len(piece), found[0], len(found))]


@settings(deadline=None)
@given(training=texts, text=texts, at_least=st.integers(1, 8))
def test_matches_are_true_apart_and_leave_nothing_longer_out(
    training: str, text: str, at_least: int
) -> None:
    found = SuffixArray.build(training).matches(text, at_least)
    for match in found:
        stands = places(training, text[match.start : match.end])
        assert match.length >= at_least
        assert (match.position, match.occurrences) == (stands[0], len(stands))
    assert all(one.end <= two.start for one, two in pairwise(found))
    lengths = lengths_by_growing(training, text)
    longest = max(lengths, default=0)
    if longest >= at_least:
        assert max(match.length for match in found) == longest
    # What no match covers is the rest of one that overlaps a longer: too short to be told of.
    free = np.array(lengths) >= at_least
    for match in found:
        free[match.start : match.end] = False
    runs = "".join("x" if left else " " for left in free).split()
    assert all(len(run) < 2 * at_least for run in runs)


def test_a_long_text_and_long_repeats_are_the_same_as_short_ones() -> None:
    random = np.random.Generator(np.random.Philox(7))
    training = "".join(random.choice(list("abc 가나\n"), 5000)) + "a" * 700
    copied = training[1000:1900]
    text = f"{'a' * 900}{copied}가가나 새로운 글 {training}"
    lengths = SuffixArray.build(training).match_lengths(text)
    assert lengths[:899].tolist() == [700] * 899
    assert lengths[901:1799].min() >= 900
    assert lengths[-len(training) :].tolist() == [len(training)] * len(training)


def test_of_two_that_overlap_the_longer_stays_whole() -> None:
    index = SuffixArray.build("the quick brown fox / brown fox jumps over the dog")
    assert index.matches("the quick brown fox jumps over", at_least=5) == [
        Match(0, 9, 0, 1),
        Match(9, 21, 21, 1),
    ]
    assert index.matches("the quick brown fox jumps over", at_least=10) == [Match(9, 21, 21, 1)]
    for ask in (index.matches, index.match_lengths):
        with pytest.raises(ConfigError, match="1 or more"):
            ask("the", at_least=0)


@pytest.mark.parametrize(
    "text", ["plain words, over and over. " * 30, "한글과 😀 emoji\n" * 30, "x"]
)
def test_what_is_saved_opens_and_answers_the_same(tmp_path: Path, text: str) -> None:
    built = SuffixArray.build(text)
    for _ in range(2):
        built.save(tmp_path / "deep" / "copies")
    opened = SuffixArray.open(tmp_path / "deep" / "copies", text)
    asked = f"new {text[5:70]}! {text[:40]}"
    assert opened.match_lengths(asked).tolist() == built.match_lengths(asked).tolist()
    assert opened.matches(asked, 5) == built.matches(asked, 5)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copies"]


def test_only_what_nobody_writes_any_more_is_swept(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f".writing-copies-{number}").mkdir()
    with Lock(tmp_path / ".writing-copies-1"):
        SuffixArray.build("a text").save(tmp_path / "copies")
    assert {path.name for path in tmp_path.iterdir()} == {"copies", ".writing-copies-1"}


def test_an_index_that_is_not_this_texts_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    with pytest.raises(CheckpointError, match="no suffix array"):
        SuffixArray.open(folder, "a text")
    SuffixArray.build("a text").save(folder)
    with pytest.raises(CheckpointError, match="another text"):
        SuffixArray.open(folder, "a test")


@pytest.mark.parametrize("name", ["suffixes.bin", "manifest.json"])
def test_every_flipped_byte_is_noticed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "copies"
    SuffixArray.build("to be or not to be").save(folder)
    sound = (folder / name).read_bytes()
    for place in range(len(sound)):
        (folder / name).write_bytes(
            sound[:place] + bytes([sound[place] ^ 0x11]) + sound[place + 1 :]
        )
        try:
            opened = SuffixArray.open(folder, "to be or not to be")
        except CheckpointError:
            continue
        # White space and unknown names in the manifest mean nothing.
        assert name == "manifest.json"
        assert opened.match_lengths("not to").tolist() == [6] * 6
    (folder / name).write_bytes(sound[: len(sound) // 2])
    with pytest.raises(CheckpointError):
        SuffixArray.open(folder, "to be or not to be")


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write"):
        SuffixArray.build("a text").save(tmp_path / "file" / "copies")
