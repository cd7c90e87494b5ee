"""One HTML file of modules, styles and numbers, which loads nothing."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any, Literal

from hornbook import __version__

# Each module after those that it imports.
MODULES = (
    "arrays", "model", "ngram", "mixture", "mixer", "sampling", "tokenizer", "reader", "seen",
    "strings", "elements", "app", "writer", "votes", "attention", "earlier", "whatif", "surprise",
    "steps", "contents", "main",
)  # fmt: skip
# What begins, in a file that holds a model and in the page of a server.
Kind = Literal["file", "server"]
ENTRIES: dict[Kind, tuple[str, ...]] = {
    "file": ("file",),
    "server": ("api", "remote", "progress", "served"),
}
IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
EXPORT = re.compile(r"^export ", re.MULTILINE)


@cache
def script(kind: Kind) -> str:
    """The modules as one: imports and exports between them are left out.

    So no two of them may declare the same name; the browser refuses the page otherwise.
    """
    here, names = files("hornbook.page"), (*MODULES, *ENTRIES[kind])
    modules = ((here / f"{name}.js").read_text(encoding="utf-8") for name in names)
    return "\n".join(EXPORT.sub("", IMPORT.sub("", module)) for module in modules)


@cache
def style() -> str:
    """The report card's style sheet, and the page's own; `hornbook.report` would import torch."""
    sheets = ("report/style.css", "page/page.css")
    return "".join((files("hornbook") / each).read_text(encoding="utf-8") for each in sheets)


def document(about: Mapping[str, Any], numbers: bytes) -> str:
    """The page of a model: what is known about it, and its numbers."""
    code, css = f"\n{script('file')}", f"\n{style()}"
    policy = (
        f"default-src 'none'; script-src '{sha256(code)}'; style-src '{sha256(css)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    title = escape(f"{about['name']}: hornbook")
    facts = json.dumps(about, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="hornbook {escape(__version__)}">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main id="page"><noscript><p>This page runs a language model in your browser: it needs JavaScript.\
</p></noscript></main>
<script type="application/json" id="about">{facts}</script>
<script type="text/plain" id="numbers">{base64.b64encode(numbers).decode()}</script>
<script type="module">{code}</script>
</body>
</html>
"""


def sha256(text: str) -> str:
    """A hash as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
