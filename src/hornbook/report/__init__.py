"""The report card: what a run is worth, as a page to look at, as Markdown, and as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from hornbook.report.card import Card as Card
from hornbook.report.card import examine as examine
from hornbook.report.comparison import COLUMNS as COLUMNS
from hornbook.report.comparison import Row as Row
from hornbook.report.comparison import cells as cells
from hornbook.report.comparison import compare as compare
from hornbook.report.comparison import comparison_html
from hornbook.report.comparison import remark as remark
from hornbook.report.markdown import comparison_markdown, markdown
from hornbook.report.page import html
from hornbook.storage.disk import write_atomically


def write(card: Card) -> Card:
    """Put report.html, report.md and report.json into the run folder; gives the card back.

    Raises: CheckpointError when the disk refuses.
    """
    folder = card.result.folder.path
    save(folder, "report", html(card), markdown(card), card.as_dict())
    return card


def write_comparison(rows: Sequence[Row], folder: Path) -> Path:
    """Put comparison.html, .md and .json into a folder; gives the page's path.

    Raises: CheckpointError when the disk refuses.
    """
    figures = [row.as_dict() for row in rows]
    return save(folder, "comparison", comparison_html(rows), comparison_markdown(rows), figures)


def save(folder: Path, name: str, page: str, text: str, figures: object) -> Path:
    """The same in three forms. A lone surrogate, which no file can hold, becomes a stand-in."""
    for suffix, content in (
        ("html", page),
        ("md", text),
        ("json", json.dumps(figures, indent=1, ensure_ascii=False)),
    ):
        path = folder / f"{name}.{suffix}"
        write_atomically(path, content.encode("utf-8", "replace"))
    return folder / f"{name}.html"
