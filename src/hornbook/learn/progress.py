"""Which exercises a learner has solved, kept in the user's data folder.

Only what is solved in a notebook, or in IPython, is kept. Importing this does not import torch.
"""

import json
import re
import sys
from contextlib import suppress
from pathlib import Path

from hornbook.errors import HornbookError
from hornbook.learn.notebooks import lessons
from hornbook.storage.disk import write_atomically
from hornbook.storage.files import read_json


def progress_file() -> Path:
    """Where progress is kept."""
    from platformdirs import user_data_path

    return user_data_path("hornbook") / "lessons.json"


def solved() -> list[str]:
    """The names of the solved exercises, sorted; none where the file is missing or damaged."""
    try:
        found = read_json(progress_file())
    except (OSError, ValueError, HornbookError):
        return []
    return sorted({each for each in found if isinstance(each, str)} if type(found) is list else ())


def in_notebook() -> bool:
    """Whether this is IPython or one of its kernels."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def keep(exercise: str) -> None:
    """Note that an exercise is solved; a disk that refuses is no reason to stop a lesson."""
    before = solved()
    if exercise not in before:
        with suppress(OSError, HornbookError):
            progress_file().parent.mkdir(parents=True, exist_ok=True)
            write_atomically(progress_file(), json.dumps(sorted([*before, exercise])).encode())


def standing() -> dict[str, dict[str, bool]]:
    """For each lesson, whether each of its exercises is solved."""
    done = set(solved())
    return {
        source.stem: {
            exercise: exercise in done
            for exercise in re.findall(
                r'^check\("([a-z]+-\d+)"', source.read_text(encoding="utf-8"), re.MULTILINE
            )
        }
        for source in lessons()
    }
