"""The lessons as notebooks (.ipynb) of either language, made from their one source.

The source is Markdown with code cells, and the Korean catalogue of each. The code is the same in
both languages. Importing this module does not import torch.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hornbook.errors import HornbookError
from hornbook.language import Language, msg
from hornbook.language.catalogue import read_catalogue
from hornbook.storage.disk import write_atomically

# The one cell that differs between the languages.
BEGIN = """\
import os
import sys

os.environ["HORNBOOK_LANG"] = "{language}"
if "google.colab" in sys.modules:  # Colab has no hornbook yet
    %pip install --quiet hornbook"""

CODE = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
OPTIONS = re.compile(r"\A(?:---\n.*?^---\n|(?::[a-z-]+:[^\n]*\n)+)", re.DOTALL | re.MULTILINE)
# A list's items are translated one by one, and so are paragraphs.
GAPS = re.compile(r"(\n\s*\n|\n(?=- |\d\. ))")
MARK = re.compile(r"\A(?:#+|-|\d+\.) ")
LINK = re.compile(r"\[([^\]]*)\]\(([^():]+)\.md(#[^)]*)?\)")


@dataclass(frozen=True)
class Cell:
    """A cell as the source has it: code, or Markdown; `hidden` is an answer to an exercise."""

    code: bool
    text: str
    hidden: bool = False


def source_folder() -> Path:
    """The folder with lessons/ and the catalogues: within the package, or the project's docs.

    Raises: HornbookError where neither is there.
    """
    package = Path(__file__).parent
    for folder in (package / "course", package.parents[2] / "docs"):
        if (folder / "lessons").is_dir():
            return folder
    raise HornbookError(
        msg("the lessons are missing from {package}: install hornbook again", package=package)
    )


def lessons() -> list[Path]:
    """The sources of the lessons, in their order."""
    return sorted((source_folder() / "lessons").glob("[0-9]*.md"))


def read(source: Path) -> list[Cell]:
    """The cells of a lesson."""
    text = HEADER.sub("", source.read_text(encoding="utf-8"))
    cells: list[Cell] = []
    for number, piece in enumerate(CODE.split(text)):
        if number % 2:
            code = OPTIONS.sub("", piece).strip("\n")
            cells.append(Cell(True, code, hidden="hide-cell" in piece[: len(piece) - len(code)]))
        elif piece.strip():
            cells.append(Cell(False, piece.strip()))
    return cells


def catalogue(source: Path) -> dict[str, str]:
    """The Korean of each sentence of a lesson, by its English."""
    path = source_folder() / "locale/ko/LC_MESSAGES/lessons" / f"{source.stem}.po"
    return read_catalogue(path.read_text(encoding="utf-8"))


def translate(prose: str, messages: dict[str, str]) -> str:
    """Prose with every sentence replaced by its Korean; what has none stays as it is."""
    blocks = GAPS.split(prose)
    for number in range(0, len(blocks), 2):
        block = blocks[number]
        mark = found[0] if (found := MARK.match(block)) else ""
        sentence = " ".join(block[len(mark) :].split())
        blocks[number] = mark + messages[sentence] if messages.get(sentence) else block
    return "".join(blocks)


def notebook(source: Path, language: Language) -> dict[str, Any]:
    """A lesson as a notebook (format 4.5) to run. Its first cell installs hornbook in Colab."""
    messages = catalogue(source) if language == "ko" else {}
    title, *rest = read(source)
    begin = Cell(True, BEGIN.format(language=language))
    return {
        "cells": [
            laid_out(number, cell, messages)
            for number, cell in enumerate((title, begin, *rest), start=1)
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def laid_out(number: int, cell: Cell, messages: dict[str, str]) -> dict[str, Any]:
    """A cell of a notebook. Answers are folded away, as on the site."""
    text = cell.text if cell.code else LINK.sub(link, translate(cell.text, messages))
    shown: dict[str, Any] = {
        "cell_type": "code" if cell.code else "markdown",
        "id": f"cell-{number:02}",
        "metadata": {},
        "source": text.splitlines(keepends=True),
    }
    if cell.hidden:
        folded = {"source_hidden": True, "outputs_hidden": True}
        shown["metadata"] = {"jupyter": folded, "tags": ["hide-cell"]}
    if cell.code:
        shown |= {"execution_count": None, "outputs": []}
    return shown


def link(found: "re.Match[str]") -> str:
    """A link to another lesson, to its notebook; other pages are not beside the notebooks."""
    words, target, anchor = found.groups()
    return words if "/" in target else f"[{words}]({target}.ipynb{anchor or ''})"


def lay_out(folder: Path, language: Language) -> Iterator[tuple[Path, bool]]:
    """Write the notebooks; yields each path and whether it was written.

    A notebook that is there is kept: it may hold a learner's work.
    Raises: CheckpointError when the disk refuses.
    """
    for source in lessons():
        path = folder / f"{source.stem}.ipynb"
        new = not path.exists()
        if new:
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(notebook(source, language), ensure_ascii=False, indent=1)
            write_atomically(path, f"{text}\n".encode())
        yield path, new
