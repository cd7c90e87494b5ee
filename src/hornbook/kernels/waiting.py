"""Makes OpenMP's threads sleep instead of spin while other programs want the cores.

libgomp has no call for it, but a documented rule: while a process has more OpenMP threads than
cores, waiting threads spin 100 times (microseconds) before they sleep. A second team of threads
that does nothing brings that about, and ends it when the team is dissolved; so it works where torch
was loaded long before hornbook. Waiting changes no bit of a result.

Spinning is worth keeping on an idle machine: without it the `quick` preset trained at 78 to 87% of
its speed. On a busy one the spinning thread holds the core that the awaited one needs: there the
same steps took 3 to 10 times as long (docs/experiments.md).
"""

import ctypes
import threading
import time
from contextlib import suppress
from pathlib import Path

from hornbook.cores import waiting_is_set
from hornbook.kernels.library import NativeUnavailableError, openmp

WATCH = "hornbook-watch"
POLL_SECONDS = 0.2
# The machine is busy when this process's threads, together, wait for a core for this share of the
# time, and idle again after so many quiet polls. With one program more than cores somebody waits
# all the time; waking up takes microseconds.
BUSY_SHARE = 0.1
QUIET_POLLS = 10


class Team:
    """A second OpenMP team of so many threads, all asleep, from `hold` to `dissolve`."""

    def __init__(self, parallel: int, threads: int) -> None:
        self._threads = threads
        kind = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
        )
        self._parallel = kind(parallel)
        # A C function that does nothing: free(NULL).
        self._nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
        self._over: threading.Event | None = None
        self._holder: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether the team is there."""
        return self._over is not None

    def hold(self) -> None:
        """Form the team, from a thread of its own: a team ends with the thread that formed it."""
        ready, self._over = threading.Event(), threading.Event()
        self._holder = threading.Thread(
            target=self._keep, args=(ready, self._over), name="hornbook-team", daemon=True
        )
        self._holder.start()
        ready.wait()

    def dissolve(self) -> None:
        """End the team."""
        if self._over and self._holder:
            self._over.set()
            self._holder.join()
            self._over = self._holder = None

    def _keep(self, ready: threading.Event, over: threading.Event) -> None:
        self._parallel(self._nothing, None, self._threads, 0)
        ready.set()
        over.wait()


class Watch:
    """Decides from how long threads waited for a core; `seen` is what `waited` gave last."""

    def __init__(self, tasks: Path = Path("/proc/self/task")) -> None:
        self.tasks = tasks
        self.seen = waited(tasks)
        self.quiet = 0

    def busy(self, seconds: float) -> bool | None:
        """Whether the machine was busy in the last so many seconds; None while it is unclear."""
        before, self.seen = self.seen, waited(self.tasks)
        delay = sum(self.seen[each] - before[each] for each in self.seen if each in before)
        if delay > BUSY_SHARE * 1e9 * seconds:
            self.quiet = 0
            return True
        self.quiet += 1
        return False if self.quiet >= QUIET_POLLS else None


def waited(tasks: Path) -> dict[str, int]:
    """Nanoseconds that each thread of a process could have run but had no core."""
    found = {}
    with suppress(OSError):
        for task in tasks.iterdir():
            with suppress(OSError, ValueError, IndexError):  # a thread that has just ended
                found[task.name] = int((task / "schedstat").read_text().split()[1])
    return found


def yield_when_busy(threads: int) -> None:
    """Watch from here on, in a thread of its own; once a process, and only where it can help.

    Nothing is done with one thread, where the user has set GOMP_SPINCOUNT or OMP_WAIT_POLICY, where
    OpenMP is not libgomp, or where the system does not say how long threads waited.
    """
    watched = any(each.name == WATCH for each in threading.enumerate())
    if watched or threads < 2 or waiting_is_set() or not waited(Path("/proc/self/task")):
        return
    try:
        team = Team(openmp(), threads)
    except (NativeUnavailableError, AttributeError):
        return
    threading.Thread(target=keep_watch, args=(team,), name=WATCH, daemon=True).start()


def keep_watch(team: Team) -> None:
    """Hold the team while the machine is busy; never ends."""
    watch, last = Watch(), time.monotonic()
    while True:
        time.sleep(POLL_SECONDS)
        now = time.monotonic()
        busy = watch.busy(now - last)
        last = now
        if busy and not team.held:
            team.hold()
        elif busy is False and team.held:
            team.dissolve()
