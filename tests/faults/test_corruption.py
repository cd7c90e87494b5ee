"""A bit flipped, a file truncated, swapped or missing: found before anything of it is used."""

import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from jobs import config, write_text

import hornbook as hb
from hornbook import training as engine
from hornbook.errors import HornbookError
from hornbook.storage.cache import DamagedCacheWarning
from hornbook.text.corpus import read_corpus
from hornbook.text.dataset import prepare

# The log of a run and what is written at its end are read by people: nothing is computed on them.
NOT_USED = {
    ".lock",
    "metrics.jsonl",
    "sample.txt",
    "result.json",
    "report.html",
    "report.md",
    "report.json",
}
Damage = Callable[[Path, list[Path], random.Random], list[Path]]


def flip(run: Path, files: list[Path], chance: random.Random) -> list[Path]:
    path = chance.choice(files)
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return [path]


def truncate(run: Path, files: list[Path], chance: random.Random) -> list[Path]:
    path = chance.choice(files)
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])
    return [path]


def swap(run: Path, files: list[Path], chance: random.Random) -> list[Path]:
    one, other = chance.sample(files, 2)
    between = run / "between"
    one.rename(between)
    other.rename(one)
    between.rename(other)
    return [one, other]


def lose(run: Path, files: list[Path], chance: random.Random) -> list[Path]:
    path = chance.choice(files)
    path.unlink()
    return [path]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two steps, with a best checkpoint and a last one."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(folder / "cache"))
        settings = config(write_text(folder), steps=2, eval_interval=1)
        for _ in hb.train(settings, out=folder / "run"):
            pass
    return folder / "run"


def use(run: Path) -> list[object]:
    """All that sampling and going on would start from; a warning is an error here."""
    best = hb.load(run)
    trainer = engine.resume(run)
    state = trainer.state
    return [
        safetensors.torch.save(best.model.state_dict()),
        best.config,
        best.tokenizer.to_json(),
        safetensors.torch.save(state.model.state_dict()),
        safetensors.torch.save(state.optimizers.tensors()),
        state.random_state.tolist(),
        (state.step, state.best_loss, state.seconds, trainer.dataset.fingerprint),
        trainer.config,
    ]


@pytest.mark.parametrize("damage", [flip, truncate, swap, lose])
def test_damage_is_found_before_use(
    damage: Damage,
    sound: Path,
    tmp_path: Path,
    chance: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    count: Callable[[int, int], int],
    tell: Callable[[str, str], None],
) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(sound.parent / "cache"))
    expected = use(sound)
    trials, refused, harmless = count(200, 1000), 0, 0
    for trial in range(trials):
        run = tmp_path / f"run-{trial}"
        shutil.copytree(sound, run)
        files = sorted(
            path for path in run.rglob("*") if path.is_file() and path.name not in NOT_USED
        )
        damaged = damage(run, files, chance)
        try:
            found = use(run)
        except (HornbookError, UserWarning):
            refused += 1
        else:
            assert found == expected, f"{damaged} was used, damaged"
            harmless += 1
        shutil.rmtree(run)
    tell(damage.__name__, f"{trials}: {refused} refused, {harmless} without effect, 0 used")


@pytest.mark.parametrize("damage", [flip, truncate, swap, lose])
def test_damaged_token_arrays_are_made_again(
    damage: Damage,
    sound: Path,
    tmp_path: Path,
    chance: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    count: Callable[[int, int], int],
    tell: Callable[[str, str], None],
) -> None:
    corpus, settings = read_corpus(str(sound.parent / "hamlet.txt")), hb.preset("quick").data
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(sound.parent / "cache"))
    expected = prepare(corpus, settings)
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    prepare(corpus, settings)
    trials, found = count(50, 250), 0
    for _ in range(trials):
        files = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
        damaged = damage(tmp_path, files, chance)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            again = prepare(corpus, settings)
        found += any(issubclass(each.category, DamagedCacheWarning) for each in caught)
        for part in ("train", "validation"):
            assert np.array_equal(getattr(again, part), getattr(expected, part)), damaged
    assert found > trials * 0.8
    tell(f"{damage.__name__} (token arrays)", f"{trials}: {found} said and made again, 0 used")


def test_without_the_hashes_a_flipped_bit_is_used(sound: Path, chance: random.Random) -> None:
    # The control: what finds the damage is the manifest, not the format of the files.
    (path,) = sound.glob("checkpoints/step-*/model.safetensors")
    loaded = 0
    for _ in range(100):
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            safetensors.torch.load(bytes(data))
        except (safetensors.SafetensorError, ValueError):
            continue
        loaded += 1
    assert loaded > 80
