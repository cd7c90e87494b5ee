"""The report card of a run, and the comparison of several, as HTML, Markdown and JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from hornbook.language import Language, choose_language
from hornbook.report.card import Card, examine
from hornbook.report.comparison import COLUMNS, Row, cells, compare, comparison_html, remark
from hornbook.report.markdown import comparison_markdown, markdown
from hornbook.report.page import html
from hornbook.report.textual import Textual, ahead
from hornbook.storage.disk import write_atomically

__all__ = [
    "COLUMNS",
    "Card",
    "Textual",
    "ahead",
    "cells",
    "compare",
    "examine",
    "remark",
    "write",
    "write_comparison",
]


def write(card: Card, language: Language | None = None) -> Card:
    """Write report.html, report.md and report.json into the run folder; returns the card.

    The page is in the requested language, or that of the environment; the others are in English.
    Raises: CheckpointError if a file cannot be written.
    """
    page = html(card, choose_language(language))
    save(card.result.folder.path, "report", page, markdown(card), card.as_dict())
    return card


def write_comparison(rows: Sequence[Row], folder: Path, language: Language | None = None) -> Path:
    """Write comparison.html, .md and .json into a folder; returns the page's path.

    The page is in the requested language, or that of the environment; the others are in English.
    Raises: CheckpointError if a file cannot be written.
    """
    figures = [row.as_dict() for row in rows]
    page = comparison_html(rows, choose_language(language))
    return save(folder, "comparison", page, comparison_markdown(rows), figures)


def save(folder: Path, name: str, page: str, text: str, figures: object) -> Path:
    """Write three files; a lone surrogate, which UTF-8 cannot encode, becomes a question mark."""
    data = json.dumps(figures, indent=1, ensure_ascii=False)
    for suffix, content in (("html", page), ("md", text), ("json", data)):
        write_atomically(folder / f"{name}.{suffix}", content.encode("utf-8", "replace"))
    return folder / f"{name}.html"
