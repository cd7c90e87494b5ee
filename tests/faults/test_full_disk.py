"""A disk that is full, breaks, or takes a little at a time, at every size and every operation."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import Breaking, Small, Stingy, fail
from jobs import config, flags, hashes, made, overwriting, pruning_first, write_text
from processes import Processes

import hornbook as hb
from hornbook import training as engine
from hornbook.errors import CheckpointError, HornbookError
from hornbook.storage import checkpoint
from hornbook.storage.disk import Disk

# A disk may well refuse the first checkpoint: then the steps are taken again, and that is said.
pytestmark = pytest.mark.filterwarnings("ignore::hornbook.training.resumption.UnsavedStepsWarning")

KIB_64 = 2**16
SHORT = {"steps": 4, "eval_interval": 2}


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    return write_text(tmp_path)


def finish(text: Path, run: Path, disk: Disk, **changes: object) -> None:
    """Train to the end, from wherever the folder's run is.

    What is saved before the disk refuses is seen to be kept.
    """
    if (run / "config.toml").exists():
        trainer = engine.resume(run, disk=disk)
    else:
        trainer = engine.begin(config(text, **SHORT | changes), out=run, disk=disk)
    promised, train = trainer.state.step, trainer.config.train
    # In the background a checkpoint is promised once the next one has begun.
    late = train.checkpoint_interval if train.async_save == "on" else 0
    try:
        for metrics in engine.steps(trainer):
            if metrics.step % train.checkpoint_interval == 0:
                promised = max(promised, metrics.step - late)
    except HornbookError:
        check_kept(run / "checkpoints", promised)
        raise


def check_refusal(error: HornbookError, place: Path, says: str) -> None:
    """See that an error is one line, with the path and what went wrong."""
    message = str(error)
    assert "\n" not in message
    assert str(place) in message
    assert says in message
    # A run folder that cannot even be made is a wrong request: --out names a bad place.
    assert error.exit_code == (2 if message.startswith("--out ") else 1)


def check_kept(folder: Path, promised: int) -> None:
    """See that of the checkpoints all are sound, and none is older than what was promised."""
    for kind in ("step", "best"):
        for path in checkpoint.folders(folder, kind):
            assert checkpoint.read(path)
    if promised:
        assert checkpoint.load(folder, "step").step >= promised


def test_full_at_every_size(
    text: Path,
    tmp_path: Path,
    processes: Processes,
    count: Callable[[int, int], int],
    tell: Callable[[str, str], None],
) -> None:
    width = count(32, 96)
    finish(text, tmp_path / "whole", Disk(), n_embd=width)
    expected = hashes(tmp_path / "whole")
    refused, size, ended = 0, 0, False
    while not ended:
        size += KIB_64
        root = tmp_path / f"{size}"
        root.mkdir()
        try:
            finish(text, root / "run", Small(size, root), n_embd=width)
            ended = True
        except CheckpointError as error:
            check_refusal(error, root, " bytes")
            refused += 1
        finish(text, root / "run", Disk(), n_embd=width)
        assert hashes(root / "run") == expected
    assert refused >= 3
    tell(
        "a full disk (simulated), in steps of 64 KiB",
        f"{refused} sizes up to {size // 1024} KiB: one line with path and bytes, exit 1, the old "
        "checkpoint intact, and with room again the uninterrupted run's bytes",
    )


@pytest.mark.parametrize("careless", [overwriting, pruning_first])
def test_a_careless_save_on_a_full_disk_is_caught(
    careless: Callable[[Path, checkpoint.Checkpoint, Disk], None], tmp_path: Path
) -> None:
    # The control: what was saved before is spoilt, or gone, by the time the disk refuses.
    caught = refused = 0
    for capacity in range(0, 8000, 500):  # Others may have filled it to less than a save takes.
        folder = tmp_path / str(capacity)
        checkpoint.save(folder, "step", made(1))
        try:
            careless(folder, made(2), Small(capacity, folder))
        except (CheckpointError, OSError):
            refused += 1
            try:
                check_kept(folder, 1)
            except (CheckpointError, AssertionError):
                caught += 1
    assert caught == refused > 5


def test_full_for_real_at_every_size(
    text: Path,
    tmp_path: Path,
    count: Callable[[int, int], int],
    mounting: Processes,
    tell: Callable[[str, str], None],
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    settings = SHORT | {"n_embd": count(32, 96)}
    start = ["train", str(text), "--out", str(tmp_path / "whole"), "-q", *flags(**settings)]
    assert mounting.run("command", arguments=start).status == 0
    expected, refused, size = hashes(tmp_path / "whole"), 0, 0
    while True:
        size += KIB_64
        done = mounting.run("full_disk", text=text, place=place, size=size, **settings)
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["rest"] == 0, done.stderr
        assert found["hashes"] == expected
        if found["status"] == 0:
            break
        assert found["status"] == 1
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("hornbook: "))
        assert str(place) in line
        assert " bytes" in line
        refused += 1
    assert refused >= 3
    tell(
        "a full disk (a real file system), in steps of 64 KiB",
        f"{refused} sizes up to {size // 1024} KiB: as above",
    )


@pytest.mark.parametrize(
    ("number", "async_save"), [(errno.EIO, "off"), (errno.ENOSPC, "off"), (errno.ENOSPC, "on")]
)
def test_an_error_at_every_operation(
    number: int,
    async_save: str,
    text: Path,
    tmp_path: Path,
    tell: Callable[[str, str], None],
    long_form: bool,
) -> None:
    tiny = {"model": "bigram", "steps": 2, "checkpoint_interval": 1, "eval_interval": 2}
    tiny |= {"async_save": async_save}
    counted = Breaking()
    finish(text, tmp_path / "whole", counted, **tiny)
    expected = hashes(tmp_path / "whole")
    refused = 0
    every = 1 if long_form or async_save == "off" else 4
    for at in range(0, len(counted.operations), every):
        run = tmp_path / f"{at}" / "run"
        run.parent.mkdir()
        try:
            finish(text, run, Breaking(fail(number), at), **tiny)
        except HornbookError as error:
            check_refusal(error, run, os.strerror(number))
            refused += 1
        finish(text, run, Disk(), **tiny)
        assert hashes(run) == expected
    assert refused > len(counted.operations) / every / 2
    tell(
        f"{errno.errorcode[number]} at every operation, async_save = {async_save}",
        f"{len(counted.operations)} operations: {refused} refused in one line, the rest done "
        "without (the tidying of what is old); all went on to the same bytes",
    )


@pytest.mark.parametrize("most", [1, 1000])
def test_short_writes_are_carried_on_with(
    most: int, text: Path, tmp_path: Path, tell: Callable[[str, str], None]
) -> None:
    tiny = {"model": "bigram", "steps": 2, "checkpoint_interval": 1, "eval_interval": 2}
    finish(text, tmp_path / "whole", Disk(), **tiny)
    finish(text, tmp_path / "short", Stingy(most), **tiny)
    assert hashes(tmp_path / "short") == hashes(tmp_path / "whole")
    assert len(list(hb.load(tmp_path / "short").folder.metrics_rows())) == 2
    tell(f"short writes of {most} bytes, all of them", "the same bytes at the end")
