"""The text that the lessons read, as the lecture prepares it.

    from hornbook.learn.corpus import text, tokenizer, train_data, val_data, vocab_size

It is tiny Shakespeare: looked up on this machine, else downloaded, and checked by its hash. Where
it cannot be had, it is python-docs, and a line says so. Nothing is read before a name is imported.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from hornbook.errors import DataError
from hornbook.language import tr
from hornbook.text.corpus import load_text
from hornbook.text.tokenizer import CharTokenizer

if TYPE_CHECKING:
    name: str
    text: str
    tokenizer: CharTokenizer
    vocab_size: int
    data: Tensor
    train_data: Tensor
    val_data: Tensor

PREFERRED, FALLBACK = "shakespeare", "python-docs"


class Prepared(NamedTuple):
    """A text with its tokenizer, as token ids (`data`, [N], int64), split at 90%."""

    name: str
    text: str
    tokenizer: CharTokenizer
    vocab_size: int
    data: Tensor
    train_data: Tensor
    val_data: Tensor


def prepare(name: str) -> Prepared:
    """A corpus as the lessons use it. Raises: DataError if it cannot be had."""
    text = load_text(name)
    tokenizer = CharTokenizer.from_text(text)
    data = torch.tensor(tokenizer.encode(text), dtype=torch.long)
    n = int(0.9 * len(data))
    return Prepared(name, text, tokenizer, tokenizer.vocab_size, data, data[:n], data[n:])


@cache
def prepared() -> Prepared:
    """Tiny Shakespeare, or python-docs with a line that says why; printed once."""
    try:
        found = prepare(PREFERRED)
    except DataError as error:
        print(  # noqa: T201 - shown under the notebook's cell
            tr(
                "NOTE: tiny Shakespeare is not available, so this lesson uses {fallback}, and its "
                "figures differ from those in the text.\nReason: {error}",
                fallback=FALLBACK,
                error=error,
            )
        )
        found = prepare(FALLBACK)
    size = found.vocab_size
    print(  # noqa: T201
        tr(
            "{name}: {number:,} characters, {size} different",
            name=found.name,
            number=len(found.text),
            size=size,
        )
    )
    return found


def __getattr__(name: str) -> Any:
    """A part of the prepared text, read now that it is asked for."""
    if name in Prepared._fields:
        return getattr(prepared(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
