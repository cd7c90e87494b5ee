"""Two trainers on one folder, the lock of a dead one, a read-only folder, a clock that jumps."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import config, flags, hashes, write_text
from processes import Processes

from hornbook import training as engine
from hornbook.errors import CheckpointError
from hornbook.runs.verify import verify
from hornbook.storage.lock import Lock
from hornbook.training.conclude import conclude


def test_a_second_trainer_is_refused_and_a_dead_ones_lock_is_not_heeded(
    tmp_path: Path, run: Path, processes: Processes, tell: Callable[[str, str], None]
) -> None:
    text = write_text(tmp_path)
    processes.run("train", text=text, run=tmp_path / "whole")
    first = processes.start("train", text=text, run=run)
    first.reaches("step 3")
    first.send(signal.SIGSTOP)
    resume = ["train", "--resume", str(run)]
    try:
        second = processes.run("command", arguments=resume)
        assert second.status == 1
        (line,) = second.stderr.splitlines()
        assert f"process {first.pid} " in line
        anew = ["train", str(text), "--out", str(run), *flags()]
        assert processes.run("command", arguments=anew).status == 2
    finally:
        first.send(signal.SIGKILL)
        first.wait()
    # What the dead one's lock says is no obstacle, not even where its number is now another's.
    (run / ".lock").write_text(f"process {os.getpid()} on nowhere")
    assert processes.run("command", arguments=resume).status == 0
    assert hashes(run) == hashes(tmp_path / "whole")
    tell(
        "two trainers; a stale lock",
        "the second is refused with the first's number, exit 1; killed, the first is succeeded",
    )


def test_without_a_lock_two_trainers_would_show(
    tmp_path: Path, run: Path, processes: Processes
) -> None:
    # The control: the second is not refused, and the run's rows are two trainings'.
    first = processes.start("train", text=write_text(tmp_path), run=run)
    first.reaches("step 3")
    first.send(signal.SIGSTOP)
    second = processes.run("command_unlocked", arguments=["train", "--resume", str(run)])
    first.send(signal.SIGCONT)
    first.wait()
    assert second.status == 0
    assert not verify(run).sound


@pytest.mark.parametrize("at", ["hornbook.training.conclude:conclude", "hornbook.report.page:html"])
def test_a_second_trainer_is_refused_until_the_last_file_is_written(
    at: str, tmp_path: Path, run: Path, processes: Processes
) -> None:
    start = ["train", str(write_text(tmp_path)), "--out", str(run), *flags(steps=4)]
    first = processes.start("command_signalled", arguments=start, at=at, number=signal.SIGSTOP)
    first.reaches(f"signalled in {at}")
    resume = ["train", "--resume", str(run), "--steps", "6"]
    try:
        second = processes.run("command", arguments=resume)
        assert second.status == 1, second.stderr
        assert f"process {first.pid} " in second.stderr
    finally:
        first.send(signal.SIGCONT)
        ended = first.wait()
    assert ended.status == 0, ended.stderr
    assert processes.run("command", arguments=resume).status == 0


def test_the_lock_goes_with_a_conclusion_that_fails(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    trainer = engine.begin(config(write_text(tmp_path), steps=2), out=run)
    list(engine.steps(trainer))
    (run / "result.json").mkdir()
    with pytest.raises(CheckpointError, match=r"result\.json"):
        conclude(trainer)
    Lock(run).acquire()


def test_a_read_only_folder(
    tmp_path: Path, run: Path, mounting: Processes, tell: Callable[[str, str], None]
) -> None:
    text, place = write_text(tmp_path), tmp_path / "place"
    place.mkdir()
    mounting.run("train", text=text, run=run)
    done = mounting.run("read_only", run=run, place=place)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"begun": 2, "resumed": 1, "sampled": 0}
    lines = [line for line in done.stderr.splitlines() if line.startswith("hornbook: ")]
    assert len(lines) == 2
    assert all(str(place) in line and "Read-only file system" in line for line in lines)
    assert "Traceback" not in done.stderr
    tell("a read-only folder", "training: one line, exit 1 (2 for --out); sampling works")


def test_a_clock_that_jumps(
    tmp_path: Path,
    run: Path,
    processes: Processes,
    chance: random.Random,
    tell: Callable[[str, str], None],
) -> None:
    text = write_text(tmp_path)
    processes.run("train", text=text, run=tmp_path / "whole")
    trial = processes.start("train_by_a_wild_clock", text=text, run=run, seed=1)
    trial.reaches("step 7")
    trial.send(signal.SIGKILL)
    trial.wait()
    for path in [run, *run.rglob("*")]:
        when = time.time() + chance.uniform(-1e8, 1e8)
        os.utime(path, (when, when))
    done = processes.run("train_by_a_wild_clock", text=text, run=run, seed=2)
    assert done.status == 0
    assert int(done.stdout.split()[1]) >= 6
    assert hashes(run) == hashes(tmp_path / "whole")
    tell("a clock that jumps, and files from the future", "killed, resumed: the same bytes")
