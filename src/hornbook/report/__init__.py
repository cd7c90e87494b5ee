"""The report card of a run, and the comparison of several, as HTML, Markdown and JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from hornbook.report.card import Card, examine
from hornbook.report.comparison import COLUMNS, Row, cells, compare, comparison_html, remark
from hornbook.report.markdown import comparison_markdown, markdown
from hornbook.report.page import html
from hornbook.storage.disk import write_atomically

__all__ = ["COLUMNS", "Card", "cells", "compare", "examine", "remark", "write", "write_comparison"]


def write(card: Card) -> Card:
    """Write report.html, report.md and report.json into the run folder; returns the card.

    Raises: CheckpointError if a file cannot be written.
    """
    save(card.result.folder.path, "report", html(card), markdown(card), card.as_dict())
    return card


def write_comparison(rows: Sequence[Row], folder: Path) -> Path:
    """Write comparison.html, .md and .json into a folder; returns the page's path.

    Raises: CheckpointError if a file cannot be written.
    """
    figures = [row.as_dict() for row in rows]
    return save(folder, "comparison", comparison_html(rows), comparison_markdown(rows), figures)


def save(folder: Path, name: str, page: str, text: str, figures: object) -> Path:
    """Write three files; a lone surrogate, which UTF-8 cannot encode, becomes a question mark."""
    data = json.dumps(figures, indent=1, ensure_ascii=False)
    for suffix, content in (("html", page), ("md", text), ("json", data)):
        write_atomically(folder / f"{name}.{suffix}", content.encode("utf-8", "replace"))
    return folder / f"{name}.html"
