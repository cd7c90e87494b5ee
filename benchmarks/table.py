"""The rows of the benchmarks' tables, and their timers."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Row(NamedTuple):
    """A figure of hornbook, of a peer, and the ceiling, all from one run."""

    what: str
    unit: str
    ours: float
    peer: float | None = None
    peer_name: str = ""
    ceiling: float | None = None
    ceiling_name: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer: higher for a rate, lower for a cost."""
        if self.peer is None or not self.ours or not self.peer:
            return None
        rate = self.unit.endswith("/s") or self.unit == "share of peak"
        return self.ours / self.peer if rate else self.peer / self.ours


def median_seconds(action: Callable[[], object], runs: int) -> float:
    """The median time of several runs of an action, after one warm-up."""
    action()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


class Finished(NamedTuple):
    """A finished process."""

    seconds: float
    peak_mib: float
    stdout: str


def process(command: list[str], *, cold: bool = False) -> Finished:
    """Run a command; returns its wall time, peak resident memory and output.

    The command's first word is a program in this Python's folder. `cold` gives it empty caches, so
    that its time includes preparing the text and compiling.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = (str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", ""))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        if cold:
            environment["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "compiled")
            environment["HORNBOOK_CACHE_DIR"] = str(Path(folder) / "cache")
        output = Path(folder) / "stdout"
        with output.open("w") as stdout:
            started = time.perf_counter()
            child = subprocess.Popen(
                [str(Path(sys.executable).parent / command[0]), *command[1:]],
                cwd=folder,
                env=environment,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
            )
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - started
        printed = output.read_text(encoding="utf-8")
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}\n{printed}")
    return Finished(seconds, usage.ru_maxrss / 1024, printed)
