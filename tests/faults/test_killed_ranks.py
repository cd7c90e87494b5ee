"""One of several ranks killed, at any instant and at any operation of a sharded save.

RANK_KILLS=20 pytest -n0 tests/faults/test_killed_ranks.py     so many kills of each kind
"""

import errno
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from jobs import INTERVAL, STEPS, hashes, write_text
from processes import Outcome, Processes, Trial

from hornbook.runs.folder import RunFolder
from hornbook.runs.verify import verify
from hornbook.storage import checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")

# Longer than any step of a trial, and than a fork takes on a busy machine.
LIMIT_SECONDS = 30
REPLICATED: dict[str, object] = {"batch_size": 4, "rank_timeout_seconds": LIMIT_SECONDS}
SPREAD = REPLICATED | {"parallel": "fsdp"}
BACKGROUND: dict[str, object] = {"async_save": "on"}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Those of all trials, but with what FSDP imports: 2 s of each rank otherwise."""
    with Processes(tmp_path_factory.mktemp("ranks"), RANKS="1") as made:
        yield made


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def launched(
    processes: Processes, text: Path, run: Path, world: int, **given: object
) -> list[Trial]:
    """So many ranks of one run; what strikes the disk is for the rank `victim`."""
    port = free_port()
    victim = given.pop("victim", None)
    struck = {name: given.pop(name) for name in ("at", "when", "refusal") if name in given}
    return [
        processes.start(
            "rank", text=text, run=run, rank=rank, world=world, port=port,
            **given, **(struck if rank == victim else {}),
        )
        for rank in range(world)
    ]  # fmt: skip


def ended(trials: list[Trial], seconds: float = 5) -> list[Outcome]:
    """The ends of all; like torchrun, it stops those that go on long after one has failed."""
    first = None
    while not all(trial.over for trial in trials):
        if first is None and any(trial.over for trial in trials):
            first = time.monotonic()
        if first is not None and time.monotonic() > first + seconds:
            for trial in trials:
                trial.send(signal.SIGKILL)
        time.sleep(0.005)
    return [trial.wait() for trial in trials]


def goes_on(
    processes: Processes, text: Path, run: Path, world: int, expected: dict[str, str],
    **settings: object,
) -> int:  # fmt: skip
    """See that started again, all ranks end in the uninterrupted run's bytes; the steps lost."""
    before = [row["step"] for row in RunFolder(run).metrics_rows()]
    rest = ended(launched(processes, text, run, world, restarts=1, **settings), 60)
    assert [each.status for each in rest] == [0] * world, [each.stderr for each in rest]
    lost = max(before, default=0) - int(rest[0].stdout.split()[1])
    assert hashes(run) == expected
    steps = [row["step"] for row in RunFolder(run).metrics_rows()]
    assert steps == list(range(1, int(str(settings.get("steps", STEPS))) + 1))
    return lost


@pytest.fixture
def store() -> dist.TCPStore:
    """A store beside the ranks, as torchrun has one: it does not stop with rank 0."""
    return dist.TCPStore("127.0.0.1", free_port(), is_master=True, wait_for_workers=False)


def resting(processes: Processes, store: dist.TCPStore, world: int, **given: object) -> list[Trial]:
    """Ranks that wait for rank 0, which works alone."""
    return [
        processes.start("resting", rank=rank, world=world, port=store.port, **given)
        for rank in range(world)
    ]


def test_rank_0_may_work_alone_for_longer_than_the_time_limit(
    processes: Processes, store: dist.TCPStore
) -> None:
    found = ended(resting(processes, store, 3, seconds=4.5, limit=3), 60)
    assert [each.status for each in found] == [0, 0, 0], [each.stderr for each in found]
    assert [each.stdout for each in found[1:]] == ["{'order': 'step', 'steps': 3}\n"] * 2


def test_rank_0_that_hangs_while_it_works_alone_is_lost(
    processes: Processes, store: dist.TCPStore
) -> None:
    first, second = resting(processes, store, 2, seconds=600, limit=2)
    first.reaches("alone")
    first.send(signal.SIGSTOP)
    lost = second.wait()
    first.send(signal.SIGKILL)
    first.wait()
    assert lost.status == 1
    assert "rank 1 lost" in lost.stderr
    assert "while it waited for a sign of life of rank 0, which works alone" in lost.stderr
    assert lost.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "kind", ["replicated", "spread", "replicated, background", "spread, background"]
)
def test_a_rank_killed_at_a_random_instant(
    kind: str,
    tmp_path: Path,
    processes: Processes,
    chance: random.Random,
    count: Callable[[int, int], int],
    tell: Callable[[str, str], None],
) -> None:
    trials = count(int(os.environ.get("RANK_KILLS", "0")), 100)
    if not trials:
        pytest.skip("in the long form; a short one is in tests/parallel")
    world, settings = 4, SPREAD if kind.startswith("spread") else REPLICATED
    settings = settings | (BACKGROUND if kind.endswith("background") else {})
    text = write_text(tmp_path)
    started = time.perf_counter()
    whole = ended(launched(processes, text, tmp_path / "whole", world, **settings), 60)
    duration = time.perf_counter() - started
    assert [each.status for each in whole] == [0] * world, [each.stderr for each in whole]
    expected = hashes(tmp_path / "whole")
    killed, most_lost = 0, 0
    for number in range(10 * trials):
        run = tmp_path / f"run-{number}"
        ranks = launched(processes, text, run, world, **settings)
        time.sleep(chance.uniform(0, duration))
        victim = ranks[chance.randrange(world)]
        victim.send(signal.SIGKILL)
        found = ended(ranks)
        if all(each.status == 0 for each in found if each.status != -signal.SIGKILL):
            continue  # all had done their work
        killed += 1
        most_lost = max(most_lost, goes_on(processes, text, run, world, expected, **settings))
        if killed == trials:
            break
    assert killed == trials
    assert most_lost <= INTERVAL * (2 if settings.get("async_save") == "on" else 1)
    tell(
        f"SIGKILL of one of {world} ranks at a random instant, weights {kind}",
        f"{killed} killed; all ended in the uninterrupted run's bytes; at most {most_lost} of "
        f"{STEPS} steps lost, an interval being {INTERVAL}",
    )


@pytest.mark.parametrize("background", [False, True], ids=["waiting", "background"])
def test_a_rank_killed_during_a_sharded_save(
    background: bool,
    tmp_path: Path,
    processes: Processes,
    chance: random.Random,
    count: Callable[[int, int], int],
    tell: Callable[[str, str], None],
) -> None:
    world, settings = 2, SPREAD | {"steps": 4, "eval_interval": 2}
    settings = settings | (BACKGROUND if background else {})
    text = write_text(tmp_path)
    whole = ended(launched(processes, text, tmp_path / "whole", world, **settings), 60)
    assert [each.status for each in whole] == [0] * world, [each.stderr for each in whole]
    expected = hashes(tmp_path / "whole")
    instants = [
        (victim, at, when)
        for victim, one in enumerate(whole)
        for at in range(int(one.stdout.split()[-1]))
        for when in ("before", "midway", "after")
    ]
    trials = count(int(os.environ.get("RANK_KILLS", "1")), len(instants))
    for number, (victim, at, when) in enumerate(chance.sample(instants, trials)):
        run = tmp_path / f"run-{number}"
        found = ended(
            launched(processes, text, run, world, victim=victim, at=at, when=when, **settings)
        )
        # An operation that is no writing of bytes has no midway.
        assert found[victim].status in ({-signal.SIGKILL, 0} if when == "midway" else {-9})
        for kind in ("step", "best"):
            for path in checkpoint.folders(run / "checkpoints", kind):
                checkpoint.read(path)  # none is half there
        goes_on(processes, text, run, world, expected, **settings)
        assert verify(run).sound
    tell(
        f"SIGKILL of one of 2 ranks during a sharded save{', in the background' * background}",
        f"{trials} of {len(instants)} instants of the disk's operations: no half checkpoint, and "
        "all ended in the uninterrupted run's bytes",
    )


@pytest.mark.parametrize("async_save", ["off", "on"])
def test_a_rank_whose_disk_is_full_stops_all_in_one_line(
    async_save: str, tmp_path: Path, processes: Processes
) -> None:
    text, run = write_text(tmp_path), tmp_path / "run"
    settings = SPREAD | {"steps": 4, "eval_interval": 4, "async_save": async_save}
    # The first save of rank 1 is open, write and sync of two files; the second one begins after it.
    struck = {"victim": 1, "at": 7, "refusal": errno.ENOSPC}
    first, second = ended(launched(processes, text, run, 2, **struck, **settings), 60)
    assert first.status == 1
    line = " ".join(first.stderr.split())
    assert "cannot save the checkpoint: rank 1: No space left on device; earlier" in line
    assert first.stderr.count("\n") == 1
    assert not second.stderr
    (kept,) = checkpoint.folders(run / "checkpoints", "step")
    assert checkpoint.read(kept).step == 2
    assert not list((run / "checkpoints").glob(".writing-*"))
