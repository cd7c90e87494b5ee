"""`hornbook lessons`."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hornbook.cli.console import note, output
from hornbook.cli.terminal import print_json, table
from hornbook.errors import HornbookError, display_path
from hornbook.language import choose_language, msg, tr
from hornbook.learn.notebooks import lay_out
from hornbook.learn.progress import standing


def run(
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("hornbook-lessons"),
    serve: Annotated[bool, Parameter(negative="")] = False,
    progress: Annotated[bool, Parameter(negative="")] = False,
    json: bool = False,
) -> int:
    """Write the lessons as notebooks, for JupyterLab, VS Code and Colab.

    Notebooks that are in the folder already are kept, since they may hold your work.

    Args:
        out: The folder to write them into.
        serve: Then open lesson 1 in JupyterLab, which the extra `lessons` installs.
        progress: Only list which exercises you have solved.
        json: Print JSON.
    """
    language = choose_language()
    if progress:
        return show_progress(json=json)
    if serve and find_spec("jupyterlab") is None:
        raise HornbookError(
            msg("--serve needs JupyterLab, which is not installed: pip install 'hornbook[lessons]'")
        )
    written = list(lay_out(out, language))
    kept = [path for path, new in written if not new]
    first = written[0][0]
    if kept:
        note(
            msg(
                "{kept} notebooks were there already and are kept, in the language that they have; "
                "remove one to get it anew, or choose another folder with --out",
                kept=len(kept),
            )
        )
    if json:
        print_json({"language": language, "notebooks": [str(path) for path, _ in written]})
    else:
        folder, command = display_path(out), f"jupyter lab {display_path(first)}"
        output().print(tr("{folder}: {number} lessons", folder=folder, number=len(written)))
        output().print(tr("start with: {command}", command=command))
    if serve:
        return subprocess.run([sys.executable, "-m", "jupyterlab", first], check=False).returncode  # noqa: S603
    return 0


def show_progress(*, json: bool) -> int:
    """The exercises of each lesson, and which are solved."""
    lessons = standing()
    if json:
        print_json(lessons)
        return 0
    headings = tr("lesson"), tr("solved"), tr("left")
    listed = table(headings, numbers=headings[1:2])
    for lesson, exercises in lessons.items():
        left = [exercise for exercise, solved in exercises.items() if not solved]
        solved = len(exercises) - len(left)
        share = tr("{solved} of {number}", solved=solved, number=len(exercises))
        listed.add_row(lesson, share, ", ".join(left))
    output().print(listed)
    return 0
