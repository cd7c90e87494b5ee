"""Checkpoints: whole or not at all, hashed, and the last good one is always found."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hornbook.errors import CheckpointError
from hornbook.storage import checkpoint
from hornbook.storage.checkpoint import Checkpoint, DamagedCheckpointWarning
from hornbook.storage.disk import Disk


def made(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    tensors = {"w": torch.randn(5, 7, generator=generator), "scalar": torch.tensor(float(step))}
    return Checkpoint(step, {"model": tensors}, {"note": f"step {step}", "list": [1, 2, 3]})


def same(one: Checkpoint, other: Checkpoint) -> bool:
    ours, theirs = one.tensors["model"], other.tensors["model"]
    return one.step == other.step and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "step", made(3))
    found = checkpoint.load(tmp_path, "step")
    assert same(found, made(3))
    assert found.state["note"] == "step 3"


def test_a_newer_one_replaces_the_older_of_its_kind_only(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "best", made(1))
    for step in (1, 2, 12):
        checkpoint.save(tmp_path, "step", made(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-00000001", "step-00000012"]
    assert same(checkpoint.load(tmp_path, "best"), made(1))
    checkpoint.save(tmp_path, "step", made(12))
    assert same(checkpoint.load(tmp_path, "step"), made(12))


def test_nothing_in_it_is_a_pickle(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, "step", made(3))
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["manifest.json", "model.safetensors", "state.json"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(tmp_path_factory.mktemp("saved"), "step", made(3))


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_one_flipped_bit_is_always_found(saved: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(saved.iterdir())))
    sound = path.read_bytes()
    place = data.draw(st.integers(0, len(sound) * 8 - 1))
    flipped = bytearray(sound)
    flipped[place // 8] ^= 1 << place % 8
    try:
        path.write_bytes(flipped)
        # A flip in the manifest's white space, or in the case of its hexadecimal, changes nothing.
        harmless = path.name == "manifest.json" and same_manifest(sound, bytes(flipped))
        if harmless:
            checkpoint.read(saved)
        else:
            with pytest.raises(CheckpointError):
                checkpoint.read(saved)
    finally:
        path.write_bytes(sound)


def same_manifest(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["truncated", "missing", "emptied", "a folder"])
def test_a_damaged_file_is_named(name: str, how: str, tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, "step", made(3))
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    match how:
        case "truncated":
            (folder / name).write_bytes(data[:-1])
        case "emptied":
            (folder / name).write_bytes(b"")
        case "a folder":
            (folder / name).mkdir()
    with pytest.raises(CheckpointError, match=name):
        checkpoint.read(folder)


def test_files_swapped_between_checkpoints_are_found(tmp_path: Path) -> None:
    one = checkpoint.save(tmp_path / "a", "step", made(1))
    two = checkpoint.save(tmp_path / "b", "step", made(2))
    shutil.copy(one / "model.safetensors", two / "model.safetensors")
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoint.read(two)


def test_the_one_before_a_damaged_one_is_used_and_said_so(tmp_path: Path) -> None:
    sound = checkpoint.save(tmp_path, "step", made(1))
    kept = tmp_path / "kept"
    shutil.copytree(sound, kept)
    damaged = checkpoint.save(tmp_path, "step", made(2))
    kept.rename(sound)
    (damaged / "model.safetensors").write_bytes(b"")
    with pytest.warns(DamagedCheckpointWarning, match="step-00000002"):
        assert same(checkpoint.load(tmp_path, "step"), made(1))
    shutil.rmtree(sound)
    with (
        pytest.warns(DamagedCheckpointWarning),
        pytest.raises(CheckpointError, match="no intact 'step' checkpoint among 1"),
    ):
        checkpoint.load(tmp_path, "step")


def test_a_write_cut_short_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "step", made(1))
    unfinished = tmp_path / ".writing-step-00000002"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"half")
    assert same(checkpoint.load(tmp_path, "step"), made(1))
    checkpoint.save(tmp_path, "step", made(2))
    assert same(checkpoint.load(tmp_path, "step"), made(2))


class FullDisk(Disk):
    """Takes so many bytes and no more."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write_some(self, descriptor: int, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write_some(descriptor, data[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 1, 100, 400])
def test_a_disk_that_refuses_leaves_the_old_one(room: int, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "step", made(1))
    with pytest.raises(CheckpointError, match=r"step-00000002: .* bytes: No space left") as caught:
        checkpoint.save(tmp_path, "step", made(2), disk=FullDisk(room))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert same(checkpoint.load(tmp_path, "step"), made(1))


def test_no_checkpoint_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no 'best' checkpoint here"):
        checkpoint.load(tmp_path, "best")


def test_a_path_in_a_manifest_cannot_leave_the_folder(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, "step", made(1))
    secret = tmp_path / "secret"
    secret.write_bytes(b"{}")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["../secret"] = manifest.pop("state.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"lists '\.\./secret', not a file of the folder"):
        checkpoint.read(folder)
