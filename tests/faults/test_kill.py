"""SIGKILL at any instant: what was promised is there, and the run ends in the very same bytes."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jobs import INTERVAL, STEPS, hashes, write_text
from processes import Outcome, Processes

from hornbook.runs.folder import RunFolder
from hornbook.storage import checkpoint

BACKGROUND = pytest.mark.parametrize("async_save", ["off", "on"])


@BACKGROUND
def test_killed_at_random_instants(
    async_save: str,
    tmp_path: Path,
    processes: Processes,
    chance: random.Random,
    count: Callable[[int, int], int],
    tell: Callable[[str, str], None],
) -> None:
    text = write_text(tmp_path)
    started = time.perf_counter()
    processes.run("train", text=text, run=tmp_path / "whole", async_save=async_save)
    duration = time.perf_counter() - started
    expected = hashes(tmp_path / "whole")
    trials, killed, most_lost = count(13 if async_save == "off" else 4, 100), 0, 0
    for number in range(10 * trials):
        run = tmp_path / f"run-{number}"
        started = time.perf_counter()
        trial = processes.start("train", text=text, run=run, async_save=async_save)
        time.sleep(chance.uniform(0, duration))
        trial.send(signal.SIGKILL)
        ended = trial.wait()
        if ended.status == 0:
            # It was quicker than we knew; the machine has other work now and then.
            duration = min(duration, time.perf_counter() - started)
            continue
        killed += 1
        most_lost = max(most_lost, goes_on(processes, text, run, ended, expected))
        if killed == trials:
            break
    assert killed == trials
    tell(
        f"SIGKILL at a random instant, async_save = {async_save}",
        f"{killed} killed; all ended in the uninterrupted run's bytes; at most {most_lost} of "
        f"{STEPS} steps lost, an interval being {INTERVAL}",
    )


@BACKGROUND
def test_killed_during_a_save(
    async_save: str,
    tmp_path: Path,
    processes: Processes,
    chance: random.Random,
    count: Callable[[int, int], int],
    tell: Callable[[str, str], None],
) -> None:
    text = write_text(tmp_path)
    whole = processes.run("train", text=text, run=tmp_path / "whole", async_save=async_save)
    operations = int(whole.stdout.split()[-1])
    expected = hashes(tmp_path / "whole")
    trials, most_lost = count(12 if async_save == "off" else 8, 100), 0
    for number in range(trials):
        run = tmp_path / f"run-{number}"
        at, when = chance.randrange(operations), chance.choice(("before", "midway", "after"))
        ended = processes.run("train", text=text, run=run, at=at, when=when, async_save=async_save)
        most_lost = max(most_lost, goes_on(processes, text, run, ended, expected))
    tell(
        f"SIGKILL during a save, async_save = {async_save}",
        f"{trials} killed, at any of {operations} operations on the disk; all ended in the "
        f"uninterrupted run's bytes; at most {most_lost} of {STEPS} steps lost",
    )


def test_a_lost_random_state_would_show(tmp_path: Path, processes: Processes) -> None:
    # The control: the hashes tell a run resumed from all but its state from one resumed exactly.
    text, run = write_text(tmp_path), tmp_path / "run"
    processes.run("train", text=text, run=tmp_path / "whole")
    trial = processes.start("train", text=text, run=run)
    trial.reaches("step 6")
    trial.send(signal.SIGKILL)
    trial.wait()
    folder = RunFolder(run).checkpoints
    last = checkpoint.load(folder, "step")
    forgetful = replace(last, state=last.state | {"random_state": torch.get_rng_state().tolist()})
    shutil.rmtree(checkpoint.folders(folder, "step")[0])
    checkpoint.save(folder, "step", forgetful)
    assert processes.run("train", text=text, run=run).status == 0
    assert hashes(run) != hashes(tmp_path / "whole")


def goes_on(
    processes: Processes, text: Path, run: Path, ended: Outcome, expected: dict[str, str]
) -> int:
    """See that a killed run goes on to its end as if nothing had been; the steps lost."""
    rest = processes.run("train", text=text, run=run)
    assert rest.status == 0, rest.stderr
    lost = max(ended.steps, default=0) - int(rest.stdout.split()[1])
    # A save in the background ends before the next one begins.
    assert lost <= INTERVAL * (2 if RunFolder(run).settings().train.async_save == "on" else 1)
    assert hashes(run) == expected
    assert [row["step"] for row in RunFolder(run).metrics_rows()] == list(range(1, STEPS + 1))
    return lost
