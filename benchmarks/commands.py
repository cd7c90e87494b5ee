"""What the README's table says: wall time, exact loss and memory of whole commands, cold.

    python benchmarks/commands.py              # one run each of the long ones, medians of the short
    python benchmarks/commands.py --runs 3

Each command is a process of its own, timed from outside; torch.compile's cache is emptied before
each training, so compiling is in the figure. Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Timed(NamedTuple):
    """One finished command."""

    seconds: float
    peak_mib: float
    stdout: str


def timed(command: list[str], folder: Path) -> Timed:
    """Run a command to its end; its wall time and the largest resident size it had."""
    environment = os.environ | {
        "TORCHINDUCTOR_CACHE_DIR": tempfile.mkdtemp(dir=folder),
        "HORNBOOK_CACHE_DIR": tempfile.mkdtemp(dir=folder),
    }
    with (folder / "stdout").open("w+") as stdout:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            cwd=folder,
            env=environment,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        stdout.seek(0)
        printed = stdout.read()
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}\n{printed}")
    return Timed(seconds, usage.ru_maxrss / 1024, printed)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1, help="how often to run each training")
    runs = parser.parse_args().runs
    sys.stdout.write("| command | wall | exact validation loss | peak memory |\n")
    sys.stdout.write("| --- | --- | --- | --- |\n")
    for command in (["hornbook", "train"], ["hornbook", "train", "shakespeare"]):
        with tempfile.TemporaryDirectory() as folder:
            done = [timed([*command, "--json"], Path(folder)) for _ in range(runs)]
        found = json.loads(done[-1].stdout)
        sys.stdout.write(
            f"| `{' '.join(command)}` | {statistics.median(each.seconds for each in done):.0f} s "
            f"| {found['val_nats_per_char']:.3f} nats/char "
            f"| {max(each.peak_mib for each in done):.0f} MiB |\n"
        )
        sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        done = [timed(["hornbook", "--help"], Path(folder)) for _ in range(11)]
    seconds = statistics.median(each.seconds for each in done)
    sys.stdout.write(f"| `hornbook --help` | {seconds:.2f} s | | {done[0].peak_mib:.0f} MiB |\n")


if __name__ == "__main__":
    main()
