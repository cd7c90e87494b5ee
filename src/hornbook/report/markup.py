"""The HTML that all pages share: the document, and text that is safe to show in it."""

import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from string import Template

from hornbook import __version__
from hornbook.language import current, tr


def document(title: str, body: str) -> str:
    """A complete HTML document around a body, in the current language."""
    here = files("hornbook.report")
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        language=current(),
        made=tr(
            "Made by hornbook {version}. Every figure on this page was measured.",
            version=escape(__version__),
        ),
        version=escape(__version__),
        style=stylesheet(),
        body=body,
    )


def stylesheet() -> str:
    """The style sheet of all pages: their colours, type and tables."""
    return (files("hornbook.report") / "style.css").read_text(encoding="utf-8")


# Control characters, lone surrogates and noncharacters.
ENDS = "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(17))
FORBIDDEN = re.compile(f"[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{ENDS}]")


def style_of(kind: str) -> str:
    """The CSS class of a predictor's kind."""
    return kind.replace(" ", "-")


def coloured(text: str, shades: Sequence[int], prefix: str, before: str = "") -> str:
    """Text in coloured spans, after a plain text; the number of a span's CSS class is its shade."""
    parts = "".join(spans(text, shades, prefix))
    return f'<div class="text" dir="auto">{visible(before)}{parts}</div>'


def spans(text: str, shades: Sequence[int], prefix: str) -> Iterator[str]:
    """The text in pieces of one shade, each escaped; a coloured line end gets a sign."""
    for shade, pairs in groupby(zip(shades, text, strict=True), key=lambda pair: pair[0]):
        piece = visible("".join(character for _, character in pairs))
        # A line end has a colour of its own but no width.
        piece = piece.replace("\n", "↵\n") if shade else piece
        yield f'<span class="{prefix}{shade}">{piece}</span>' if shade else piece


def visible(text: str) -> str:
    """Text escaped for HTML, with U+FFFD for the characters that HTML forbids."""
    return escape(FORBIDDEN.sub("�", text))
