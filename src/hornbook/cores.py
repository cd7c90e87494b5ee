"""How many cores this process may use, and how OpenMP's threads wait. Imports no torch."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ParamSpec, TypeVar

from hornbook.language import msg

# By default libgomp's threads spin 300,000 times (about 4 ms) before they sleep. An idle machine
# needs that: with 20,000 (about 0.3 ms) the `quick` preset trained at 0.84 of its speed and
# `layernorm` at 0.4. kernels/waiting.py shortens it on a busy machine. Where it cannot tell,
# this is between: in steps of `quick` on a busy machine 85% of the gaps between parallel regions
# were below 0.2 ms.
SPINS = "20000"
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

Given = ParamSpec("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Cores:
    """How many cores this process may use, and what limits them. `quota` is in cores."""

    count: int
    why: str
    quota: float | None = None


def usable(
    *,
    requested: str | None = None,
    proc: Path = Path("/proc"),
    cgroups: Path = Path("/sys/fs/cgroup"),
) -> Cores:
    """The least of affinity, cgroup quota and OMP_NUM_THREADS (`requested`, where given).

    torchrun's processes on this machine share its cores evenly.

    A quota of 1.5 cores is two threads and one of 1.4 a single one: both threads run until the
    quota of a period is used up.
    """
    affinity = affinity_count()
    whole = affinity == (os.cpu_count() or 1)
    here = msg("all cores of this machine") if whole else msg("the affinity of this process")
    found: list[tuple[int, str]] = [(affinity, here)]
    quota = cgroup_quota(proc, cgroups)
    if quota is not None:
        limit = msg("a cgroup quota of {quota:g} cores", quota=quota)
        if quota == 1:
            limit = msg("a cgroup quota of 1 core")
        found.append((max(1, int(quota + 0.5)), limit))
    if (sharing := ranks_here()) > 1:
        least = min(count for count, _ in found)
        found.append(
            (max(1, least // sharing), msg("the share of one of {ranks} ranks", ranks=sharing))
        )
    if asked := requested_threads(requested):
        found.append((asked, f"OMP_NUM_THREADS={asked}"))
    count, why = min(found, key=lambda each: each[0])  # of equal limits, the first
    return Cores(count, why, quota)


def requested_threads(given: str | None = None) -> int:
    """The first number in OMP_NUM_THREADS; 0 without one."""
    asked = os.environ.get("OMP_NUM_THREADS", "") if given is None else given
    first = asked.partition(",")[0].strip()
    if given is None and first == "1" and ranks_here() > 1:  # torchrun's own default for several
        return 0
    return int(first) if first.isascii() and first.isdigit() else 0


def ranks_here() -> int:
    """How many processes torchrun has started on this machine; 1 without it."""
    given = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(given) if given.isascii() and given.isdigit() else 1


def affinity_count() -> int:
    """The cores that the system's scheduler may give this process."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cgroup_quota(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """The least CPU quota, in cores, of this process's cgroups and their ancestors; None without.

    Version 2 has it in cpu.max, version 1 in cpu.cfs_quota_us and cpu.cfs_period_us. In a container
    /proc may give a path of the host's; the mount's root is then the container's own cgroup. A file
    that cannot be read sets no limit.
    """
    found = []
    with suppress(OSError, ValueError):
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
        for folder in cgroup_folders(lines, cgroups):
            with suppress(OSError, ValueError):
                found.append(quota_of(folder))
    return min((quota for quota in found if quota), default=None)


def cgroup_folders(lines: list[str], cgroups: Path) -> Iterator[Path]:
    """The folders that may limit a process's CPU time, from its lines in /proc/self/cgroup."""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        roots = [cgroups, cgroups / "unified"] if not controllers else []
        if "cpu" in controllers.split(","):
            roots = [cgroups / controllers, cgroups / "cpu"]
        own = PurePosixPath("/") / path
        inside = [each.relative_to("/") for each in (own, *own.parents) if ".." not in each.parts]
        yield from (root / each for root in roots for each in inside)


def quota_of(folder: Path) -> float | None:
    """The quota that a cgroup's own files set; None for none.

    Raises: OSError, ValueError.
    """
    if (both := folder / "cpu.max").exists():
        most, period = both.read_text(encoding="utf-8").split()
    else:
        most, period = (
            (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip()
            for name in ("quota", "period")
        )
    if most in ("max", "-1") or int(period) <= 0:
        return None
    return int(most) / int(period)


def thread_seconds(schedstat: Path = Path("/proc/thread-self/schedstat")) -> tuple[float, float]:
    """How long this thread ran, and how long it could have but had no core; zeros if unknown."""
    with suppress(OSError, ValueError, IndexError):
        ran, waited = schedstat.read_text(encoding="utf-8").split()[:2]
        return int(ran) / 1e9, int(waited) / 1e9
    return 0.0, 0.0


def slowdown() -> float:
    """How many times longer this thread has taken so far because others use its core; 1 if none.

    A first second without waiting is assumed, so that a few moments do not decide.
    """
    ran, waited = thread_seconds()
    return (1 + ran + waited) / (1 + ran)


def before_torch(*, schedstat: Path = Path("/proc/self/schedstat")) -> None:
    """Set what OpenMP reads when torch loads it: a quota's threads, and how long they spin.

    A variable that the user has set stays. Without effect where torch is loaded already.
    """
    if "torch" in sys.modules:
        return
    if not waiting_is_set() and not schedstat.exists():
        os.environ["GOMP_SPINCOUNT"] = SPINS
    cores = usable()
    if not requested_threads() and cores.count < affinity_count():
        os.environ["OMP_NUM_THREADS"] = str(cores.count)


def waiting_is_set() -> bool:
    """Whether the user has said how OpenMP's threads wait."""
    given = [os.environ[name] for name in WAITING if name in os.environ]
    return bool(given) and given != [SPINS]


def beside(work: Callable[Given, Made], *args: Given.args, **kwargs: Given.kwargs) -> Future[Made]:
    """Do some work in a thread of its own, which the process does not wait for when it ends."""
    made: Future[Made] = Future()

    def run() -> None:
        try:
            made.set_result(work(*args, **kwargs))
        except Exception as error:  # noqa: BLE001
            made.set_exception(error)

    name = f"hornbook-{getattr(work, '__name__', 'work')}"
    threading.Thread(target=run, name=name, daemon=True).start()
    return made
