"""Runs copied from a longer text, found by hashes, checked against the definition."""

import unicodedata
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.ngram import window_hashes
from hornbook.ngram.window_hashes import copied_characters

# Few letters make long repeats, and windows that differ in one place or in their order.
TEXTS = st.sampled_from(("a", "ab", "ab\n", "아가각a", "a가😀👍🏽", "\ud83d\udc4d가b")).flatmap(
    lambda letters: st.text(letters, max_size=60)
)


def by_definition(text: str, source: str, width: int) -> list[bool]:
    """The slow, obvious reference."""
    found = [False] * len(text)
    for start in range(len(text) - width + 1):
        if text[start : start + width] in source:
            found[start : start + width] = [True] * width
    return found


def in_chunks(text: str, sizes: list[int]) -> Iterator[str]:
    start = 0
    for size in [*sizes, len(text)]:
        if piece := text[start : start + size]:
            yield piece
        start += size


@settings(deadline=None, max_examples=200)
@given(
    text=TEXTS,
    source=TEXTS,
    width=st.integers(1, 8),
    sizes=st.lists(st.integers(1, 20), max_size=5),
    piece=st.integers(9, 40),
)
def test_what_is_copied_is_that_of_the_definition(
    text: str, source: str, width: int, sizes: list[int], piece: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window_hashes, "PIECE", piece)
        found = copied_characters(text, in_chunks(source, sizes), width)
    assert found.tolist() == by_definition(text, source, width)


def test_a_run_at_the_border_of_two_pieces_is_found() -> None:
    generator = np.random.default_rng(1)
    source = "".join(generator.choice(list("abcdefgh"), 3 * window_hashes.PIECE))
    borders = [window_hashes.PIECE * each for each in (1, 2)]
    for at in (0, *(border - n for border in borders for n in (0, 1, 25, 49, 50))):
        text = f"!{source[at : at + 50]}!"
        assert copied_characters(text, [source], 50).sum() == 50, at
        assert not copied_characters(f"!{source[at : at + 49]}!", [source], 50).any()


def test_a_copy_in_another_form_covers_the_characters_of_the_text_given() -> None:
    source = "Où est la forêt ?\nLà.\n" * 2
    text = "xx" + unicodedata.normalize("NFD", source).replace("\n", "\r\n") + "yy"
    found = copied_characters(text, [source[:7], source[7:]], 20)
    assert found.tolist() == [False] * 2 + [True] * (len(text) - 4) + [False] * 2
