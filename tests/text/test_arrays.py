"""Token arrays in the cache: gone on with, checked, made again, and never too many."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.storage import cache
from hornbook.text.arrays import Chunks, open_arrays, write_arrays
from hornbook.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer

TEXT = "한글은 letters too; the quick brown fox.\n" * 60
CHAR = CharTokenizer.from_text(TEXT)
HANGUL = CharTokenizer("".join(map(chr, range(0xAC00, 0xAC00 + 300))))
TOKENIZERS = {"char": CHAR, "byte": ByteTokenizer(), "bpe": BPETokenizer.train(TEXT, 300)}


def chunks(text: str, size: int = 50) -> Chunks:
    return lambda start: (text[i : i + size] for i in range(start, len(text), size))


def interrupted(text: str, after: int) -> Chunks:
    """The text in chunks, until somebody presses Ctrl-C."""

    def read(start: int) -> Iterator[str]:
        yield from (chunk for _, chunk in zip(range(after), chunks(text)(start), strict=False))
        raise KeyboardInterrupt

    return read


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=20, deadline=None)
@given(after=st.lists(st.integers(0, 40), max_size=3), save=st.integers(1, 300))
def test_who_is_interrupted_goes_on(
    kind: str, tmp_path_factory: pytest.TempPathFactory, after: list[int], save: int
) -> None:
    tokenizer: Tokenizer = TOKENIZERS[kind]
    folder = tmp_path_factory.mktemp("cache") / "arrays"
    for chunk in after:
        parts = {"train": interrupted(TEXT, chunk), "validation": chunks("")}
        with pytest.raises(KeyboardInterrupt):
            write_arrays(folder, parts, tokenizer, save_bytes=save)
        assert open_arrays(folder, ["train", "validation"], tokenizer.vocab_size) is None
    parts = {"train": chunks(TEXT), "validation": chunks(TEXT[:99])}
    write_arrays(folder, parts, tokenizer, save_bytes=save)
    found = open_arrays(folder, ["train", "validation"], tokenizer.vocab_size)
    assert found is not None
    train, validation = found
    assert np.array_equal(train, tokenizer.encode_array(TEXT))
    assert np.array_equal(validation, tokenizer.encode_array(TEXT[:99]))
    assert train.dtype == tokenizer.encode_array(TEXT).dtype
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "train.npy",
        "validation.npy",
    ]


@pytest.mark.parametrize("damage", ["none", "flip", "cut", "progress"])
def test_what_was_saved_is_not_encoded_again_if_it_is_sound(damage: str, tmp_path: Path) -> None:
    started: list[int] = []

    def read(start: int) -> Iterator[str]:
        started.append(start)
        return chunks(TEXT)(start)

    with pytest.raises(KeyboardInterrupt):
        write_arrays(tmp_path / "a", {"train": interrupted(TEXT, 10)}, CHAR, save_bytes=100)
    (place,) = tmp_path.glob(".partial-*")
    data = bytearray((place / "train.npy").read_bytes())
    if damage == "flip":
        data[300] ^= 1
        (place / "train.npy").write_bytes(data)
    elif damage == "cut":
        os.truncate(place / "train.npy", 200)
    elif damage == "progress":
        (place / "train.progress").write_text("{")
    (train,) = write_arrays(tmp_path / "a", {"train": read}, CHAR)
    assert started == [500 if damage == "none" else 0]
    assert np.array_equal(train, CHAR.encode_array(TEXT))


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def failing(start: int) -> Iterator[str]:
        yield TEXT
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_arrays(tmp_path / "a", {"train": failing}, CHAR, save_bytes=1)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=40, deadline=None)
@given(
    file=st.sampled_from(["train.npy", "manifest.json"]),
    place=st.floats(0, 1),
    bit=st.integers(0, 7),
)
def test_a_flipped_bit_is_found_before_use(
    tmp_path_factory: pytest.TempPathFactory, file: str, place: float, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("cache") / "a"
    write_arrays(folder, {"train": chunks(TEXT)}, CHAR)
    data = bytearray((folder / file).read_bytes())
    data[min(int(place * len(data)), len(data) - 1)] ^= 1 << bit
    (folder / file).write_bytes(data)
    with pytest.warns(cache.DamagedCacheWarning, match="it will be rebuilt"):
        assert open_arrays(folder, ["train"], CHAR.vocab_size) is None


@pytest.mark.parametrize("case", ["gone", "longer", "no manifest", "empty manifest"])
def test_whatever_is_not_as_written_is_found(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    assert open_arrays(folder, ["train"], CHAR.vocab_size) is None, (
        "nothing there is nothing to warn of"
    )
    write_arrays(folder, {"train": chunks(TEXT)}, CHAR)
    manifest = folder / cache.MANIFEST
    if case == "gone":
        (folder / "train.npy").unlink()
    elif case == "longer":
        with (folder / "train.npy").open("ab") as file:
            file.write(b"!")
    elif case == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("{}")
    with pytest.warns(cache.DamagedCacheWarning):
        assert open_arrays(folder, ["train"], CHAR.vocab_size) is None


def test_of_two_at_once_neither_disturbs_the_other(tmp_path: Path) -> None:
    def meanwhile(start: int) -> Iterator[str]:
        yield TEXT[start:300]
        (other,) = write_arrays(tmp_path / "a", {"train": chunks(TEXT)}, CHAR, save_bytes=9)
        assert np.array_equal(other, CHAR.encode_array(TEXT))
        yield TEXT[300:]

    (train,) = write_arrays(tmp_path / "a", {"train": meanwhile}, CHAR, save_bytes=9)
    assert np.array_equal(train, CHAR.encode_array(TEXT))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    for age, name in enumerate("abcd"):
        with cache.fill(tmp_path / name) as place:
            (place / "file").write_bytes(bytes(1000))
        for path in (tmp_path / name).iterdir():
            os.utime(path, (10**9 - age, 10**9 - age))
    assert cache.is_sound(tmp_path / "d"), "used, and so no longer the oldest"
    size = sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    cache.prune(tmp_path / "b", max_bytes=3 * size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "d"]
    cache.prune(tmp_path / "b", max_bytes=0)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_arrays_are_numpys_own(tmp_path: Path) -> None:
    for size in (1, 12345):
        (train,) = write_arrays(tmp_path / str(size), {"t": chunks("가" * size)}, HANGUL)
        assert isinstance(train, np.memmap)
        assert (train.shape, train.dtype) == ((size,), np.uint16)
        facts = json.loads((tmp_path / str(size) / cache.MANIFEST).read_text())
        assert facts["t.npy"]["bytes"] == 128 + 2 * size
