"""Near duplicates: MinHash against the share that it estimates, and the store without them."""

import random
from pathlib import Path

import numpy as np
import pytest
from prepared import documents, finished, wanted

from hornbook.preparation.documents import Reading
from hornbook.preparation.similarity import NUMBERS, WINDOW, signature, similar_to_earlier
from hornbook.preparation.work import prepare


def windows(ids: np.ndarray) -> set[bytes]:
    return {ids[i : i + WINDOW].tobytes() for i in range(len(ids) - WINDOW + 1)}


@pytest.mark.parametrize("changes", [0, 1, 5, 20, 100])
def test_signatures_agree_as_often_as_windows_are_shared(changes: int) -> None:
    drawn = np.random.default_rng(changes)
    one = drawn.integers(5000, size=2000).astype(np.uint16)
    other = one.copy()
    other[drawn.integers(2000, size=changes)] = 5001
    both, all_ = windows(one) & windows(other), windows(one) | windows(other)
    share = len(both) / len(all_)
    alike = (signature(one, 8192) == signature(other, 8192)).mean()
    # Four standard deviations of a share of so many independent numbers.
    assert abs(alike - share) <= 4 * (share * (1 - share) / NUMBERS) ** 0.5


def test_short_documents_have_signatures_too() -> None:
    for size in (1, 7, 8, 9):
        ids = np.arange(size, dtype=np.uint16)
        assert (signature(ids, 8192) == signature(ids.copy(), 8192)).all()
        assert (signature(ids, 8192) != signature(ids + 1, 8192)).any()


def test_the_first_of_similar_documents_is_kept() -> None:
    drawn = np.random.default_rng(0)
    every = [drawn.integers(5000, size=500).astype(np.uint16) for _ in range(50)]
    nearly = [each.copy() for each in every[:10]]
    for each in nearly:
        each[100] = 5001  # 8 of 493 windows
    signatures = np.stack([signature(each, 8192) for each in [*every, *nearly]])
    assert similar_to_earlier(signatures, 0.8).tolist() == [False] * 50 + [True] * 10
    assert not similar_to_earlier(signatures[:50], 0.8).any()


def test_a_store_is_without_near_duplicates(tmp_path: Path) -> None:
    drawn = random.Random(1)
    lines = [" ".join(f"word{drawn.randint(0, 999)}" for _ in range(300)) for _ in range(20)]
    nearly = [line.replace(line.split()[150], "changed", 1) for line in lines[:5]]
    path = tmp_path / "all.txt"
    path.write_text("|".join([*lines, *nearly, lines[7]]), encoding="utf-8")
    reading = Reading(separator="|")
    every = wanted(path, reading=reading, near=0.8, vocab_size=600, validation_share=0.3)
    store = finished(prepare(every, tmp_path / "store"))
    dropped = store.manifest.dropped
    assert (dropped.exact_duplicates, dropped.near_duplicates) == (1, 5)
    assert sorted(documents(store, "train") + documents(store, "validation")) == sorted(lines)
