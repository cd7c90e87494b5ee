"""What the commands share: types of arguments, messages on stderr, JSON and tables on stdout."""

import json
import os
import sys
import time
from collections.abc import Collection, Sequence
from typing import Annotated, Literal

from cyclopts import Parameter, Token
from rich.console import Console, RenderableType
from rich.table import Table

from hornbook.cli.console import is_utf8, note
from hornbook.text.tokenizer import Tokenizer

# As the settings have it; numpy's generators take no more.
MOST = 2**62
# When the command began, on time.monotonic's clock: Python itself takes 0.2 s to start.
STARTED = time.monotonic() - 0.2


def text_name(_type: object, tokens: Sequence[Token]) -> str:
    """A text's name, not a mistyped option; a file may have such a name, and - is stdin."""
    name = tokens[0].value
    if name.startswith("-") and name != "-" and not os.path.lexists(name):
        raise ValueError(f"unknown option {name}")
    return name


def whole(_type: object, tokens: Sequence[Token]) -> int:
    """A whole number; cyclopts itself would round 1.5."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"expected a whole number, got {tokens[0].value!r}") from None


def natural(kind: object, tokens: Sequence[Token]) -> int:
    """A whole number from 0 to MOST."""
    number = whole(kind, tokens)
    if not 0 <= number <= MOST:
        raise ValueError(f"expected a whole number from 0 to {MOST}, got {number}")
    return number


# A setting checks its own limits; what is none is a Natural.
Whole = Annotated[int, Parameter(converter=whole)]
Natural = Annotated[int, Parameter(converter=natural)]
CorpusArgument = Annotated[str | None, Parameter(allow_leading_hyphen=True, converter=text_name)]
TEXT = Parameter(name="--text", allow_leading_hyphen=True)
CorpusArguments = Annotated[str, Parameter(allow_leading_hyphen=True, converter=text_name)]
FreeText = Annotated[str, Parameter(allow_leading_hyphen=True)]


def print_json(figures: object, *, indent: int | None = None, ascii_only: bool = True) -> None:
    """Print JSON on stdout; `ascii_only` escapes all other characters, lone surrogates too."""
    ascii_only = ascii_only or not is_utf8(sys.stdout)
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
        whole = heading in unbroken or heading in numbers
        made.add_column(heading, justify=justify, no_wrap=whole)
    return made


def print_table(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[Sequence[RenderableType]],
    *,
    numbers: Collection[str] = (),
    unbroken: Collection[str] = (),
    drop: Sequence[int] = (),
    best: int | None = None,
) -> None:
    """Print a table. Where the console is too narrow, the columns of `drop` go, in that order.

    The row `best` is in bold green.
    """
    widths: list[int] = []
    for heading, *cells in zip(headings, *rows, strict=True):
        sizes = [console.measure(cell) for cell in (heading, *cells)]
        whole = heading in unbroken or heading in numbers
        widths.append(max(size.maximum if whole else size.minimum for size in sizes))
    kept = list(range(len(headings)))
    for column in drop:
        if sum(widths[i] + 2 for i in kept) - 2 > console.width:
            kept.remove(column)
    made = table([headings[i] for i in kept], numbers=numbers, unbroken=unbroken)
    for number, row in enumerate(rows):
        made.add_row(*(row[i] for i in kept), style="bold green" if number == best else "")
    console.print(made)


def fit_text(tokenizer: Tokenizer, text: str, unknown: Literal["error", "skip", "replace"]) -> str:
    """`text` within the vocabulary, by the user's policy; prints what was changed on stderr."""
    fitted, remark = tokenizer.fit(text, unknown)
    if remark:
        note(remark)
    return fitted
