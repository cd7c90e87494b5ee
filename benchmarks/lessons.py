"""How long each lesson takes, as `hornbook lessons` lays it out: a table for docs/experiments.md.

python -m benchmarks.lessons                    # all, 6 minutes on two idle cores
python -m benchmarks.lessons --only 02 05       # some of them
"""

import argparse
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from hornbook.learn.notebooks import lay_out


def seconds(path: Path) -> float:
    """Run a notebook; returns the seconds with the start of its kernel."""
    notebook = nbformat.read(path, as_version=4)
    began = time.perf_counter()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": path.parent}}).execute()
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of lessons' names")
    chosen = tuple(parser.parse_args().only)
    print("| lesson | seconds |\n| --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for path, _ in lay_out(Path(folder), "en"):
            if not chosen or path.name.startswith(chosen):
                print(f"| {path.stem} | {seconds(path):.0f} |", flush=True)


if __name__ == "__main__":
    main()
