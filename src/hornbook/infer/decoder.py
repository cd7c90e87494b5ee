"""The decoder protocol: what generation needs of a model, for prefill and decode alike.

Shapes in names: R rows (texts generated together), T time, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

# Rows generated together. A pass of decoder.c takes 64 tokens, so more rows gain nothing.
MOST_ROWS = 64


@runtime_checkable
class Decoder(Protocol):
    """A language model with the state of up to `rows` texts, each at most `context_size` tokens.

    A row's logits do not depend on the other rows, nor on how its tokens are divided into calls.
    """

    context_size: int
    vocab_size: int
    rows: int

    def forward(
        self, tokens: Sequence[Sequence[int]], rows: Sequence[int], starts: Sequence[int]
    ) -> NDArray[np.float32]:
        """Logits after the last new token of each row, [R,V].

        `tokens` holds the new tokens of each row: a whole prompt (prefill), or one (decode). The
        first of them stands at the row's start. Earlier calls have read the positions before it,
        and the positions after it are forgotten: start 0 begins a new text.
        Raises: IndexError for a token, row or position outside the model.
        """
        ...

    def copy(self, source: int, row: int, length: int) -> None:
        """Make a row begin with what another row has read: its first `length` positions.

        Raises: IndexError for a row outside the model, or positions that have not been read.
        """
        ...


class EachDecoder(Decoder, Protocol):
    """A decoder that also gives the logits inside a prompt, which a mixer learns from."""

    def forward_each(self, tokens: Sequence[int], row: int, start: int) -> NDArray[np.float32]:
        """Logits after each new token of one row, [T,V].

        Raises: IndexError as `forward`.
        """
        ...


def outside(
    decoder: Decoder, tokens: Sequence[Sequence[int]], rows: Sequence[int], starts: Sequence[int]
) -> IndexError:
    """The error of a call that a decoder cannot run."""
    return IndexError(
        f"expected tokens below {decoder.vocab_size}, different rows below {decoder.rows}, and "
        f"positions below {decoder.context_size} that follow those read before; got "
        f"{[len(each) for each in tokens]} tokens from positions {list(starts)} of rows "
        f"{list(rows)}"
    )
