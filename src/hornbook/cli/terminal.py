"""What the commands share: remarks to the user, and text made to fit a vocabulary."""

from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from hornbook.tokenizer import Tokenizer


def refuse_flag(_type: object, value: str | None) -> None:
    """See that a corpus is no mistyped option: one hyphen alone is standard input."""
    if value is not None and value.startswith("-") and value != "-":
        raise ValueError(f"unknown option {value}")


CorpusArgument = Annotated[str | None, Parameter(allow_leading_hyphen=True, validator=refuse_flag)]
FreeText = Annotated[str, Parameter(allow_leading_hyphen=True)]


def note(message: str) -> None:
    """A remark on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[dim]note: {escape(message)}[/]")


def fit_text(tokenizer: Tokenizer, text: str, unknown: Literal["error", "skip", "replace"]) -> str:
    """`text` within the vocabulary by the user's policy; what was changed is said on stderr."""
    fitted, remark = tokenizer.fit(text, unknown)
    if remark:
        note(remark)
    return fitted
