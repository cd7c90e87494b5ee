"""The consoles of stdout and stderr, for any encoding, width and language."""

import codecs
import os
import sys
from contextlib import suppress

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape

from hornbook.errors import for_terminal
from hornbook.language import tr, translated

# For output that is not UTF-8; other characters are escaped there.
PLAIN = {"░": ".", "▒": "+", "▓": "%", "█": "#"}
PLAIN |= {"±": "+/-", "…": "...", "–": "-", "—": "-", "·": "-", "→": "->", "×": "x"}
PLAIN |= {"“": '"', "”": '"', "‘": "'", "’": "'", "\ufffd": "?"}


def plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler for encoders: plain characters, else escapes as `backslashreplace` has."""
    if isinstance(error, UnicodeEncodeError) and error.object[error.start] in PLAIN:
        return PLAIN[error.object[error.start]], error.start + 1
    return codecs.backslashreplace_errors(error)


def open_streams() -> bool:
    """Make stdin, stdout and stderr usable, whatever the shell has made of them.

    What cannot be encoded is printed in plain characters. A closed stream becomes an empty one;
    returns whether stdout is one.
    """
    codecs.register_error("hornbook", plain)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    closed = sys.stdout is None
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        with suppress(AttributeError):  # a notebook's or a test's own stream
            getattr(sys, name).reconfigure(errors="hornbook")
    # 0 stands for unknown, and rich would print nothing.
    for name in ("COLUMNS", "LINES"):
        if not os.environ.get(name, "1").strip("0 "):
            del os.environ[name]
    return closed


def abandon_output() -> None:
    """Send the rest of stdout nowhere if it cannot be written: Python would try again at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_utf8(stream: object) -> bool:
    """Whether a stream takes every character."""
    return str(getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def errors() -> Console:
    """The console of stderr; lines are not wrapped."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def output() -> Console:
    """The console of stdout; lines are wrapped on a terminal only."""
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False)


def note(message: str) -> None:
    """Print a note on stderr."""
    errors().print(f"[dim]{tr('note')}: {escape(for_terminal(translated(message)))}[/]")


def log(message: str) -> None:
    """Print a line on stderr, with --quiet too."""
    errors().print(escape(for_terminal(translated(message))))


def padded(text: str, width: int) -> str:
    """The text and the spaces that fill its width; a Hangul syllable takes two columns."""
    return text + " " * (width - cell_len(text))


def printable(text: str) -> str:
    """The text without control characters, which a terminal would obey; line ends as LF."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    controls = {*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}
    return text.translate(dict.fromkeys(controls, "\ufffd"))
