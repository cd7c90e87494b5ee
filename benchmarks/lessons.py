"""How long each lesson takes, as `hornbook lessons` lays it out: the table of docs/experiments.md.

    OMP_NUM_THREADS=1 python -m benchmarks.lessons        # all, 4 minutes on an idle machine
    python -m benchmarks.lessons --only 02 05             # some of them

Processor seconds hardly depend on what else runs; the wall seconds are for an idle machine.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from hornbook.learn.notebooks import lay_out


def processor_seconds() -> float:
    """What all processes that this one started and that have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(path: Path) -> tuple[float, float]:
    """Run a notebook; returns processor seconds and wall seconds, with the start of its kernel."""
    notebook = nbformat.read(path, as_version=4)
    used, began = processor_seconds(), time.perf_counter()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": path.parent}}).execute()
    return processor_seconds() - used, time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of lessons' names")
    chosen = tuple(parser.parse_args().only)
    print("| lesson | processor seconds | wall seconds |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for path, _ in lay_out(Path(folder), "en"):
            if not chosen or path.name.startswith(chosen):
                used, taken = run(path)
                print(f"| {path.stem} | {used:.0f} | {taken:.0f} |", flush=True)


if __name__ == "__main__":
    main()
