"""A decoder whose logits a context mixer corrects: `models.mixing.Mixing` for generation.

Shapes in names: R rows (texts generated together), T time, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hornbook.infer.decoder import EachDecoder, outside
from hornbook.models.mixer import Mixer, Reader


class MixingDecoder:
    """The texts of another decoder, each with a mixer's reader; see `Decoder`.

    Logits are log-probabilities. A reader learns in copies of its own, so that a row does not
    depend on the other rows.
    """

    def __init__(self, network: EachDecoder, mixer: Mixer) -> None:
        self._network = network
        self._mixer = mixer
        self.context_size, self.vocab_size = network.context_size, network.vocab_size
        self.rows = network.rows
        self._texts: dict[int, _Text] = {}

    def forward(
        self, tokens: Sequence[Sequence[int]], rows: Sequence[int], starts: Sequence[int]
    ) -> NDArray[np.float32]:
        """Log-probabilities after the last new token of each row, [R,V]; see `Decoder`.

        Raises: IndexError for a token, row or position outside the model, or a row named twice.
        """
        known = [len(self._texts[row].tokens) if row in self._texts else 0 for row in rows]
        if not (
            len(tokens) == len(rows) == len(starts) == len(set(rows))
            and all(new and min(new) >= 0 and max(new) < self.vocab_size for new in tokens)
            and all(0 <= start <= length for start, length in zip(starts, known, strict=True))
        ):
            raise outside(self, tokens, rows, starts)
        # Of the rows that go on by one token the network reads all in one call.
        following = [
            r
            for r, (new, start, length) in enumerate(zip(tokens, starts, known, strict=True))
            if len(new) == 1 and start == length and start
        ]
        if following:
            logits_RV = self._network.forward(
                [tokens[r] for r in following],
                [rows[r] for r in following],
                [starts[r] for r in following],
            )
            for r, logits_V in zip(following, logits_RV, strict=True):
                self._texts[rows[r]].add(tokens[r], logits_V[None])
        for r in set(range(len(rows))).difference(following):
            self._read(list(tokens[r]), rows[r], starts[r])
        texts = [self._texts[row] for row in rows]
        return np.array([text.reader.log_probs(text.logits_V) for text in texts])

    def copy(self, source: int, row: int, length: int) -> None:
        """Make a row begin with another's first `length` positions; see `Decoder`.

        They are read again: what a reader learned after them cannot be taken back.
        Raises: IndexError for a row outside the model, or positions that have not been read.
        """
        text = self._texts.get(source)
        if not 0 <= row < self.rows or text is None or not 0 <= length <= len(text.tokens):
            raise outside(self, (), (source, row), (length,))
        if length:
            self._read(text.tokens[:length], row, 0)
        else:
            self._texts.pop(row, None)

    def _read(self, new: list[int], row: int, start: int) -> None:
        text = self._texts.get(row)
        if text and start != len(text.tokens):
            # What the reader learned after `start` cannot be taken back: the text is read again.
            new, start = text.tokens[:start] + new, 0
        logits_TV = self._network.forward_each(new, row, start)
        if text is None:
            text = self._texts[row] = _Text(self._mixer.reader())
        if not start:
            text.reset()
        text.add(new, logits_TV)


class _Text:
    """One row: its tokens, the reader that has read them, and the network's last logits."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.reset()

    def reset(self) -> None:
        """Begin a new text."""
        self.reader.reset()
        self.tokens: list[int] = []
        self.logits_V: NDArray[np.float32] | None = None

    def add(self, tokens: Sequence[int], logits_TV: NDArray[np.float32]) -> None:
        """Read more tokens; `logits_TV` are the network's after each of them."""
        ids = np.array(tokens, np.int32)
        if self.logits_V is None:
            self.reader.read(ids[:1])
        else:
            self.reader.read(ids[:1], self.logits_V[None])
        if len(ids) > 1:
            self.reader.read(ids[1:], logits_TV[:-1])
        self.tokens.extend(tokens)
        self.logits_V = logits_TV[-1]
