"""What the commands share: types of arguments, messages on stderr, JSON and tables on stdout."""

import json
import sys
import time
from collections.abc import Collection, Sequence
from typing import Annotated, Literal

from cyclopts import Parameter, Token
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from hornbook.errors import for_terminal
from hornbook.text.corpus import Corpus, read_corpus
from hornbook.text.tokenizer import Tokenizer

LARGE_CHARACTERS = 50_000_000
# When the command began, on time.monotonic's clock: Python itself takes 0.2 s to start.
STARTED = time.monotonic() - 0.2


def refuse_flag(_type: object, value: str | None) -> None:
    """Refuse a mistyped option as a corpus; a single hyphen is standard input."""
    if value is not None and value.startswith("-") and value != "-":
        raise ValueError(f"unknown option {value}")


def whole(_type: object, tokens: Sequence[Token]) -> int:
    """A whole number; cyclopts itself would round 1.5."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"expected a whole number, got {tokens[0].value!r}") from None


Whole = Annotated[int, Parameter(converter=whole)]
CorpusArgument = Annotated[str | None, Parameter(allow_leading_hyphen=True, validator=refuse_flag)]
FreeText = Annotated[str, Parameter(allow_leading_hyphen=True)]


def read(corpus: str, encoding: str | None, field: str | None = None) -> Corpus:
    """Read a text; prints its notes, and a progress bar while it is downloaded, on stderr."""
    console = Console(stderr=True)
    bar = Progress(TextColumn("downloading"), BarColumn(), DownloadColumn(), console=console)
    task = bar.add_task("", total=None)

    def show(done: int, total: int | None) -> None:
        # The first byte starts the bar: most texts are on disk already and need none.
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        found = read_corpus(corpus, encoding=encoding, field=field, on_progress=show)
    finally:
        if bar.live.is_started:
            bar.stop()
    for message in found.notes:
        note(message)
    if found.characters > LARGE_CHARACTERS:
        note(
            f"{found.characters:,} characters: preparing their tokens takes a while the first time;"
            " if it is stopped, the next attempt continues from there"
        )
    return found


def note(message: str) -> None:
    """Print a note on stderr."""
    errors().print(f"[dim]note: {escape(for_terminal(message))}[/]")


def log(message: str) -> None:
    """Print a line on stderr, unwrapped, with --quiet too."""
    errors().print(escape(message))


def errors() -> Console:
    """The console of stderr."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def output() -> Console:
    """The console of stdout; lines are wrapped on a terminal only."""
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False)


def print_json(figures: object, *, indent: int | None = None, ascii_only: bool = True) -> None:
    """Print JSON on stdout; `ascii_only` escapes all other characters, lone surrogates too."""
    sys.stdout.write(json.dumps(figures, indent=indent, ensure_ascii=ascii_only) + "\n")


def table(
    headings: Sequence[str] = (),
    *,
    numbers: Collection[str] = (),
    unbroken: Collection[str] = (),
    title: str | None = None,
) -> Table:
    """A table without lines; the columns of `numbers` are aligned right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    made.show_header = bool(headings)
    for heading in headings:
        justify = "right" if heading in numbers else "left"
        made.add_column(heading, justify=justify, no_wrap=heading in unbroken)
    return made


def fit_text(tokenizer: Tokenizer, text: str, unknown: Literal["error", "skip", "replace"]) -> str:
    """`text` within the vocabulary, by the user's policy; prints what was changed on stderr."""
    fitted, remark = tokenizer.fit(text, unknown)
    if remark:
        note(remark)
    return fitted
