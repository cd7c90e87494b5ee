"""Threads that yield while other programs compute."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch  # noqa: F401 (its OpenMP is what waits)

import hornbook as hb
from hornbook.kernels import waiting
from hornbook.plan.machine import obstacle_to_c


def tasks(folder: Path, delays: dict[str, int]) -> Path:
    for name, delay in delays.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "schedstat").write_text(f"5000 {delay} 7\n")
    return folder


def test_a_machine_is_busy_when_threads_waited_for_a_core(tmp_path: Path) -> None:
    watch = waiting.Watch(tasks(tmp_path, {"1": 0, "2": 0}))
    assert watch.busy(0.2) is None
    tasks(tmp_path, {"1": 15_000_000, "2": 15_000_000})  # 30 ms of 200
    assert watch.busy(0.2) is True
    # A thread that is new has waited for nothing yet, and one that is gone is forgotten.
    tasks(tmp_path, {"3": 900_000_000})
    (tmp_path / "1" / "schedstat").unlink()
    found = [watch.busy(0.2) for _ in range(waiting.QUIET_POLLS)]
    assert found == [None] * (waiting.QUIET_POLLS - 1) + [False]


def test_where_the_system_does_not_say_nothing_is_watched(tmp_path: Path) -> None:
    assert waiting.waited(tmp_path / "absent") == {}
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "schedstat").write_text("damaged")
    assert waiting.waited(tmp_path) == {}


# Regions 2 ms apart: the second thread spins all the time between them, or sleeps.
SPENT = """
import time, torch
from hornbook.kernels.library import openmp
from hornbook.kernels.waiting import Team
torch.set_num_threads(2)
x = torch.zeros(1 << 20)
def spent():
    started, begun = time.process_time(), time.perf_counter()
    while time.perf_counter() - begun < 0.5:
        x.add_(1)
        time.sleep(0.002)
    return time.process_time() - started
spent()
team = Team(openmp(), 2)
for _ in range(2):
    spinning = spent()
    team.hold()
    assert team.held
    asleep = spent()
    team.dissolve()
    assert not team.held
    print(asleep / spinning)
"""


def test_a_second_team_makes_waiting_threads_sleep() -> None:
    try:
        waiting.openmp()
    except waiting.NativeUnavailableError as error:
        pytest.skip(str(error))
    done = subprocess.run([sys.executable, "-c", SPENT], capture_output=True, text=True, check=True)
    assert all(float(ratio) < 0.8 for ratio in done.stdout.split()), done.stdout


def test_one_thread_and_a_user_who_chose_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WATCH", "a-watch-of-this-test")
    waiting.yield_when_busy(1)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    waiting.yield_when_busy(2)
    assert waiting.WATCH not in {each.name for each in threading.enumerate()}


# Three steps by the C kernels, with the second team or without.
TRAINED = """
import hashlib, sys, torch
import hornbook as hb
from hornbook.kernels.library import openmp
from hornbook.kernels.waiting import Team
torch.set_num_threads(2)
team = Team(openmp(), 2)
if sys.argv[1] == "held":
    team.hold()
config = hb.preset("quick").override(corpus="text.txt", steps=3, compile="c", threads=2)
list(hb.train(config, out=sys.argv[1]))
weights = hb.load(sys.argv[1], which="last").model.state_dict()
print(hashlib.sha256(b"".join(w.float().numpy().tobytes() for w in weights.values())).hexdigest())
"""


def test_how_threads_wait_changes_no_bit(tmp_path: Path) -> None:
    reason = obstacle_to_c(hb.preset("quick"), "cpu", "float32")
    if reason:
        pytest.skip(reason)
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question.\n" * 400)
    found = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", TRAINED, how],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        ).stdout
        for how in ("held", "free")
    }  # fmt: skip
    assert len(found) == 1
