"""What the commands share: remarks to the user, and text made to fit a vocabulary."""

import time
from collections.abc import Sequence
from typing import Annotated, Literal

from cyclopts import Parameter, Token
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from hornbook.errors import for_terminal
from hornbook.text.corpus import Corpus, read_corpus
from hornbook.text.tokenizer import Tokenizer

LARGE_CHARACTERS = 50_000_000
# When the command began, on time.monotonic's clock: Python itself starts in a fifth of a second.
STARTED = time.monotonic() - 0.2


def refuse_flag(_type: object, value: str | None) -> None:
    """See that a corpus is no mistyped option: one hyphen alone is standard input."""
    if value is not None and value.startswith("-") and value != "-":
        raise ValueError(f"unknown option {value}")


def whole(_type: object, tokens: Sequence[Token]) -> int:
    """A whole number as typed; cyclopts by itself would round 1.5."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"expected a whole number, got {tokens[0].value!r}") from None


Whole = Annotated[int, Parameter(converter=whole)]
CorpusArgument = Annotated[str | None, Parameter(allow_leading_hyphen=True, validator=refuse_flag)]
FreeText = Annotated[str, Parameter(allow_leading_hyphen=True)]


def read(corpus: str, encoding: str | None) -> Corpus:
    """Read a text, with a bar on stderr while it is downloaded; remarks are passed on."""
    console = Console(stderr=True)
    bar = Progress(TextColumn("downloading"), BarColumn(), DownloadColumn(), console=console)
    task = bar.add_task("", total=None)

    def show(done: int, total: int | None) -> None:
        # Started by the first byte: most texts are here already, and need no bar.
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        found = read_corpus(corpus, encoding=encoding, on_progress=show)
    finally:
        if bar.live.is_started:
            bar.stop()
    for remark in found.notes:
        note(remark)
    if found.characters > LARGE_CHARACTERS:
        note(
            f"{found.characters:,} characters: the first time their tokens take a while to prepare;"
            " stopped, the next attempt goes on from there"
        )
    return found


def note(message: str) -> None:
    """A remark on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        f"[dim]note: {escape(for_terminal(message))}[/]"
    )


def say(message: str) -> None:
    """A line on stderr that even --quiet does not hide, whole where it is long."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(escape(message))


def fit_text(tokenizer: Tokenizer, text: str, unknown: Literal["error", "skip", "replace"]) -> str:
    """`text` within the vocabulary by the user's policy; what was changed is said on stderr."""
    fitted, remark = tokenizer.fit(text, unknown)
    if remark:
        note(remark)
    return fitted
