"""A crash before, midway through and after every operation of a save: a good checkpoint loads."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from disks import Breaking
from jobs import TEXT, made, overwriting, pruning_first
from processes import Processes

from hornbook.config import Config
from hornbook.errors import CheckpointError
from hornbook.ngram.suffix_array import SuffixArray
from hornbook.runs.folder import RunFolder
from hornbook.storage import checkpoint
from hornbook.storage.checkpoint import Checkpoint, DamagedCheckpointWarning
from hornbook.storage.disk import Disk


class CrashError(Exception):
    """What stops at it stands in for a process that dies."""


def crash(_: Path) -> None:
    raise CrashError


def test_a_crash_at_every_operation_of_a_save(
    tmp_path: Path, processes: Processes, tell: Callable[[str, str], None]
) -> None:
    counted = Breaking()
    checkpoint.save(tmp_path / "counted", "step", made(1))
    checkpoint.save(tmp_path / "counted", "step", made(2), disk=counted)
    names = [operation.split()[0] for operation in counted.operations]
    assert {"open", "write", "sync", "sync_folder", "rename", "unlink"} <= set(names)
    found = []
    for at, name in enumerate(names):
        for when in ("before", "midway", "after") if name == "write" else ("before", "after"):
            folder = tmp_path / f"{at}-{when}"
            checkpoint.save(folder, "step", made(1))
            ended = processes.run("save", folder=folder, step=2, at=at, when=when)
            assert ended.status == -9
            found.append(good(folder, (1, 2)))
            # And the next save tidies up, whatever was left behind.
            checkpoint.save(folder, "step", made(3))
            assert good(folder, (3,)) == 3
    assert found[0] == 1
    assert found[-1] == 2
    tell(
        "a crash at every operation of a save",
        f"{len(found)} crashes at {len(names)} operations: a good checkpoint loads after each",
    )


def test_a_crash_while_a_copy_index_is_saved_leaves_nothing_for_ever(
    tmp_path: Path, processes: Processes, tell: Callable[[str, str], None]
) -> None:
    index, counted = SuffixArray.build(TEXT), Breaking()
    index.save(tmp_path / "counted" / "copies")
    index.save(tmp_path / "counted" / "copies", counted)
    left = 0
    for at in range(len(counted.operations)):
        folder = tmp_path / str(at) / "copies"
        index.save(folder)
        ended = processes.run("save_copies", folder=folder, at=at, when="after")
        assert ended.status == -9
        left += len(list(folder.parent.iterdir())) > 1
        index.save(folder)
        SuffixArray.open(folder, TEXT)
        assert list(folder.parent.iterdir()) == [folder]
    assert left >= 8
    tell("a crash while a copy index is saved", f"{len(counted.operations)}: swept by the next")


def good(folder: Path, steps: tuple[int, ...]) -> int:
    """The step of the checkpoint that loads: one of `steps`, and just as it was saved."""
    found = checkpoint.load(folder, "step")
    assert found.step in steps
    for part, tensors in made(found.step).tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(found.tensors[part][name], tensor)
    return found.step


@pytest.mark.parametrize("careless", [overwriting, pruning_first])
@pytest.mark.filterwarnings(
    f"ignore::{DamagedCheckpointWarning.__module__}.DamagedCheckpointWarning"
)
def test_careless_saves_are_caught(
    careless: Callable[[Path, Checkpoint, Disk], None], tmp_path: Path
) -> None:
    # The control.
    lost = 0
    for at in range(8):
        folder = tmp_path / str(at)
        checkpoint.save(folder, "step", made(1))
        with pytest.raises(CrashError):
            careless(folder, made(2), Breaking(crash, at))
        try:
            good(folder, (1, 2))
        except CheckpointError:
            lost += 1
        shutil.rmtree(folder)
    assert lost >= 4


def run_files(path: Path) -> tuple[RunFolder, dict[Path, bytes]]:
    """A run's own files, and what two of them are to be replaced by."""
    folder = RunFolder(path)
    path.mkdir()
    contents = {
        folder.tokenizer: b"{}",
        folder.environment: b'{"format": 2, "parameters": 1}',
        folder.config: folder.toml(Config()),
    }
    folder.establish(contents)
    changed = {
        folder.environment: b'{"format": 2, "parameters": 2}',
        folder.config: folder.toml(Config().override(steps=7)),
    }
    return folder, changed


def test_files_are_replaced_whole_whenever_a_crash_comes(tmp_path: Path) -> None:
    folder, changed = run_files(tmp_path / "counted")
    counted = Breaking()
    folder.replace(changed, counted)
    assert all(path.read_bytes() == data for path, data in changed.items())
    assert len(counted.operations) > 9  # three files, each written, synced and renamed
    for at in range(len(counted.operations)):
        folder, changed = run_files(tmp_path / str(at))
        before = {path: path.read_bytes() for path in changed}
        with pytest.raises(CrashError):
            folder.replace(changed, Breaking(crash, at))
        for path in folder.own_files:
            folder.check(path)
        for path, data in changed.items():
            assert path.read_bytes() in (before[path], data)
        assert folder.settings().train.steps in (7, Config().train.steps)
