"""What the commands share: remarks to the user, and text made to fit a vocabulary."""

import sys
from typing import Literal

from rich.console import Console
from rich.markup import escape

from hornbook.tokenizer import Tokenizer


def note(message: str) -> None:
    """A remark on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[dim]note: {escape(message)}[/]")


def fit_text(tokenizer: Tokenizer, text: str, unknown: Literal["error", "skip", "replace"]) -> str:
    """`text` within the vocabulary by the user's policy; what was changed is said on stderr."""
    fitted, remark = tokenizer.fit(text, unknown)
    if remark:
        note(remark)
    return fitted


def write(text: str) -> None:
    """Text to stdout, as it stands."""
    sys.stdout.write(text)
