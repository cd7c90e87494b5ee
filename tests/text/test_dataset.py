"""From text to batches: the split, the cache, and batches that are pure functions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hornbook as hb
from hornbook.config import DataConfig
from hornbook.errors import DataError
from hornbook.storage.cache import DamagedCacheWarning
from hornbook.text.batches import batch
from hornbook.text.corpus import Corpus, read_corpus, split_place
from hornbook.text.dataset import Tokens, check_length, prepare

TEXT = "the quick brown fox jumps over the lazy dog. " * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def corpus_of(text: str, tmp_path: Path) -> Corpus:
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    return read_corpus(path)


@given(st.text(min_size=2, max_size=200), st.floats(0.05, 0.95))
def test_no_part_of_a_split_is_empty(text: str, fraction: float) -> None:
    try:
        cut = split_place(len(text), fraction)
    except DataError:
        assert int((1 - fraction) * len(text)) in (0, len(text))
    else:
        assert 0 < cut < len(text)


def test_the_arrays_are_the_text_in_the_smallest_type(tmp_path: Path) -> None:
    for kind, dtype in (("char", np.uint8), ("byte", np.uint8), ("bpe", np.uint16)):
        corpus = corpus_of(TEXT, tmp_path)
        dataset = prepare(corpus, DataConfig(tokenizer=kind, bpe_vocab_size=300))
        assert dataset.train.dtype == dtype
        decode = dataset.tokenizer.decode
        assert decode(dataset.train) + decode(dataset.validation) == TEXT


def test_merges_are_learned_from_the_training_part_alone(tmp_path: Path) -> None:
    corpus = corpus_of("abcd" * 225 + "wxyz" * 25, tmp_path)
    tokenizer = prepare(corpus, DataConfig(tokenizer="bpe", bpe_vocab_size=300)).tokenizer
    assert b"ab" in tokenizer.token_bytes()
    assert b"wx" not in tokenizer.token_bytes()


def cached_files(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}


def test_the_cache_is_used_while_text_and_settings_are_the_same(
    tmp_path: Path, cache: Path
) -> None:
    corpus = corpus_of(TEXT, tmp_path)
    first = prepare(corpus, DataConfig())
    files = cached_files(cache)
    assert len(files) == 2
    assert isinstance(first.train, np.memmap)
    again = prepare(corpus_of(TEXT, tmp_path), DataConfig())
    assert cached_files(cache) == files
    assert again.fingerprint == first.fingerprint
    changed = prepare(corpus_of(TEXT + "!", tmp_path), DataConfig())
    assert changed.fingerprint != first.fingerprint
    assert changed.tokenizer.decode(changed.validation).endswith("!")
    other = prepare(corpus, DataConfig(validation_fraction=0.5))
    assert len(other.validation) > len(first.validation)


@pytest.mark.parametrize("damage", [b"", b"not numpy", b"\x93NUMPY\x01\x00"])
def test_a_damaged_cache_is_made_again(damage: bytes, tmp_path: Path, cache: Path) -> None:
    corpus = corpus_of(TEXT, tmp_path)
    expected = np.array(prepare(corpus, DataConfig()).train)
    for path in cached_files(cache):
        path.write_bytes(damage)
    with pytest.warns(DamagedCacheWarning, match="is not what was written; it will be rebuilt"):
        again = prepare(corpus, DataConfig())
    assert np.array_equal(again.train, expected)
    assert all(path.stat().st_size > len(damage) for path in cached_files(cache))


def test_without_a_writable_cache_the_arrays_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").write_text("in the way")
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "a-file"))
    dataset = prepare(corpus_of(TEXT, tmp_path), DataConfig())
    assert dataset.tokenizer.decode(dataset.train) in TEXT


TOKENS: Tokens = np.arange(1000, dtype=np.uint16)


@given(index=st.integers(0, 10**9), seed=st.integers(0, 2**62), size=st.integers(1, 9))
def test_a_batch_is_a_pure_function_and_targets_follow_inputs(
    index: int, seed: int, size: int
) -> None:
    x, y = batch(TOKENS, index, batch_size=size, block_size=7, seed=seed)
    again = batch(TOKENS, index, batch_size=size, block_size=7, seed=seed)
    assert torch.equal(x, again[0])
    assert x.shape == y.shape == (size, 7)
    assert x.dtype == torch.int64
    assert torch.equal(y, x + 1)
    assert y.max() <= 999


def test_batches_differ_and_every_place_can_come() -> None:
    starts = torch.cat(
        [batch(TOKENS[:12], i, batch_size=4, block_size=8, seed=1)[0][:, 0] for i in range(50)]
    )
    assert set(starts.tolist()) == {0, 1, 2, 3}
    x0, x1 = (batch(TOKENS, i, batch_size=4, block_size=8, seed=1)[0] for i in (0, 1))
    assert not torch.equal(x0, x1)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_out_the_same_blocks_whatever_the_world(world: int) -> None:
    parts = [
        batch(TOKENS, 3, batch_size=8, block_size=5, seed=9, rank=rank, world=world)[0]
        for rank in range(world)
    ]
    together = sorted(row[0].item() for part in parts for row in part)
    whole = batch(TOKENS, 3, batch_size=8, block_size=5, seed=9)[0]
    assert together == sorted(whole[:, 0].tolist())


def test_a_text_shorter_than_a_block_says_what_would_fit() -> None:
    with pytest.raises(DataError, match=r"12 tokens, but block_size = 64 .* block_size=5\)"):
        check_length(TOKENS[:12], 64, "training")
    with pytest.raises(DataError, match="data has 12 tokens"):
        hb.get_batch(torch.arange(12), 4, 12)
    with pytest.raises(DataError, match=r"got 'train': write get_batch\(train_data, "):
        hb.get_batch("train")
    x, y = hb.get_batch(torch.arange(12), 4, 11)
    assert (x[:, 0].unique().tolist(), y[:, -1].unique().tolist()) == ([0], [11])
