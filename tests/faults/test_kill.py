"""SIGKILL at any instant: what was promised is there, and the run ends in the very same bytes."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from jobs import INTERVAL, STEPS, hashes, write_text
from processes import Processes


def test_killed_at_random_instants(
    tmp_path: Path,
    processes: Processes,
    chance: random.Random,
    count: Callable[[int, int], int],
    tell: Callable[[str, str], None],
) -> None:
    text = write_text(tmp_path)
    started = time.perf_counter()
    processes.run("train", text=text, run=tmp_path / "whole")
    duration = time.perf_counter() - started
    expected = hashes(tmp_path / "whole")
    trials, killed, most_lost = count(13, 100), 0, 0
    for number in range(trials):
        run = tmp_path / f"run-{number}"
        trial = processes.start("train", text=text, run=run)
        time.sleep(chance.uniform(0, duration))
        trial.send(signal.SIGKILL)
        ended = trial.wait()
        killed += ended.status == -signal.SIGKILL
        rest = processes.run("train", text=text, run=run)
        assert rest.status == 0, rest.stderr
        resumed_from = int(rest.stdout.split()[1])
        lost = max(ended.steps, default=0) - resumed_from
        most_lost = max(most_lost, lost)
        assert lost <= INTERVAL
        assert hashes(run) == expected
    assert killed > trials / 2, "most of them were killed before they ended"
    tell(
        "SIGKILL at a random instant",
        f"{killed} of {trials} killed; all ended in the uninterrupted run's bytes; "
        f"at most {most_lost} of {STEPS} steps lost, an interval being {INTERVAL}",
    )
