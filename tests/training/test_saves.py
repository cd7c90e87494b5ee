"""Checkpoints that a thread writes while training goes on."""

import threading
from pathlib import Path

import pytest
import torch
from small import small_config

import hornbook as hb
from hornbook import training as engine
from hornbook.config import Config
from hornbook.errors import CheckpointError
from hornbook.runs.verify import verify
from hornbook.storage import checkpoint
from hornbook.storage.disk import Disk
from hornbook.training.saves import Saves


def background(text: Path, **changes: object) -> Config:
    """A small run that saves in the background: every second step, evaluated every fourth."""
    given = {"checkpoint_interval": 2, "eval_interval": 4, "steps": 10, "async_save": "on"}
    return small_config(text, **given | changes)


class Waiting(Disk):
    """A disk that writes no checkpoint before it may, and then refuses one if it is full."""

    def __init__(self, *, full: bool = False) -> None:
        self.may, self.full = threading.Event(), full

    def write(self, path: Path, data: bytes | memoryview) -> None:
        if path.suffix == ".safetensors":
            assert self.may.wait(60)
            if self.full:
                raise OSError(28, "No space left on device")
        super().write(path, data)


def saved(run: Path, kind: str = "step") -> list[int]:
    return [checkpoint.step_of(path) for path in checkpoint.folders(run / "checkpoints", kind)]


def hashes(run: Path) -> list[tuple[object, ...]]:
    """What each checkpoint is, and the SHA-256 of its weights and optimizer state."""
    verdict = verify(run)
    assert verdict.sound
    return [
        (each.kind, each.step, each.weights_sha256, each.optimizer_sha256)
        for each in verdict.checkpoints
    ]


def test_a_copy_is_of_its_instant_and_made_once_a_step() -> None:
    saves, weight = Saves(background=True), torch.zeros(3)
    saves.begin(1)
    first = saves.copy({"one": weight, "other name": weight, "rows": weight[:2]})
    weight += 1
    assert first["one"].tolist() == [0, 0, 0]
    assert first["one"] is first["other name"]
    assert first["rows"].tolist() == [0, 0]
    assert saves.copy({"again": weight})["again"] is first["one"]
    saves.begin(2)
    assert saves.copy({"one": weight})["one"].tolist() == [1, 1, 1]
    at_once = Saves()
    assert at_once.copy({"one": weight})["one"] is weight


def test_what_is_added_first_is_written_first_and_nothing_after_a_failure() -> None:
    written: list[int] = []
    may = threading.Event()

    def write(number: int) -> None:
        assert may.wait(60)
        if number == 3:
            raise CheckpointError("the disk is full")
        written.append(number)

    saves = Saves(background=True)
    for number in (1, 2, 3, 4):
        saves.add(lambda number=number: write(number))
    saves.check()  # nothing has failed yet
    assert not written
    assert saves.busy
    may.set()
    with pytest.raises(CheckpointError, match="full"):
        saves.begin(1)
    assert written == [1, 2]
    assert not saves.busy
    saves.finish()  # raised once


def test_training_goes_on_while_a_checkpoint_is_written(text_path: Path, tmp_path: Path) -> None:
    disk, run = Waiting(), tmp_path / "run"
    steps = hb.train(background(text_path, eval_interval=100), out=run, disk=disk)
    taken = [next(steps).step for _ in range(3)]
    assert taken == [1, 2, 3]
    assert saved(run) == []
    disk.may.set()
    assert [each.step for each in steps] == [*range(4, 11)]
    assert saved(run) == [10]
    assert verify(run).sound


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.2, "keep_last": 3}, {"eval_interval": 2}])
def test_the_bytes_are_those_of_a_run_that_waits(
    text_path: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    for name in ("off", "on"):
        list(hb.train(background(text_path, async_save=name, **changes), out=tmp_path / name))
    assert hashes(tmp_path / "on") == hashes(tmp_path / "off")


def test_a_full_disk_is_raised_before_a_later_step_and_costs_no_bit(
    text_path: Path, tmp_path: Path
) -> None:
    list(hb.train(background(text_path), out=tmp_path / "whole"))
    disk, run = Waiting(full=True), tmp_path / "run"
    steps = hb.train(background(text_path), out=run, disk=disk)
    assert [next(steps).step for _ in range(3)] == [1, 2, 3]
    disk.may.set()
    with pytest.raises(CheckpointError, match=r"cannot save the checkpoint's [\d,]+ bytes: No sp"):
        list(steps)
    assert saved(run) == []
    assert not list((run / "checkpoints").glob(".writing-*"))
    with pytest.warns(UserWarning, match="training begins again at step 0"):
        list(hb.train(resume_from=run))
    assert hashes(run) == hashes(tmp_path / "whole")


def test_whoever_leaves_waits_for_what_is_being_saved(text_path: Path, tmp_path: Path) -> None:
    disk, run = Waiting(), tmp_path / "run"
    trainer = engine.begin(background(text_path), out=run, disk=disk)
    for metrics in engine.steps(trainer):
        if metrics.step == 3:
            threading.Timer(0.2, disk.may.set).start()
            break
    assert saved(run) == [3]
    assert not trainer.saves.busy
    # Nothing of it is in memory any more, and the lock is free.
    assert engine.resume(run).state.step == 3


def test_the_best_is_there_before_the_state_that_knows_of_it(
    text_path: Path, tmp_path: Path
) -> None:
    class Remembering(Disk):
        renamed: list[str] = []  # noqa: RUF012

        def rename(self, old: Path, new: Path) -> None:
            super().rename(old, new)
            self.renamed.append(new.name)

    disk = Remembering()
    list(hb.train(background(text_path, steps=4), out=tmp_path / "run", disk=disk))
    both = [name for name in disk.renamed if name.endswith("-00000004")]
    assert both == ["best-00000004", "step-00000004"]
