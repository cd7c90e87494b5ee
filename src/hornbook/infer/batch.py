"""Batched generation of tokens: rows with prompts, positions and settings of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hornbook.config import SamplingConfig
from hornbook.infer.decoder import Decoder
from hornbook.infer.sampling import draw, probabilities

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hornbook.models.language_model import LanguageModel


@dataclass(slots=True, eq=False)
class Generation:
    """A text in the making; `row` is its row of the decoder, once it has one.

    The row holds the tokens from `start` on, of which those before `read` have been read.
    """

    tokens: list[int]
    sampling: SamplingConfig
    generator: np.random.Generator
    start: int
    read: int
    end: float  # the number of tokens, prompt included, at which it is finished
    row: int = -1


class Batch:
    """Generations that a decoder runs together; they join and leave at any step.

    What one generates does not depend on the others. Those that find no row free wait for one. Each
    reads up to `context_size` tokens. When these are full it drops the older half and reads the
    newer half again: it always sees at least half a context, and only one token in
    context_size / 2 costs more than one position's work.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._free = list(range(decoder.rows))[::-1]
        self._running: dict[int, Generation] = {}
        self._waiting: dict[int, Generation] = {}
        self._added = 0

    def __len__(self) -> int:
        """The number of unfinished generations."""
        return len(self._running) + len(self._waiting)

    def __contains__(self, number: int) -> bool:
        """Whether a generation is unfinished."""
        return number in self._running or number in self._waiting

    def add(
        self,
        prompt: Sequence[int],
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        max_new_tokens: int | None = None,
    ) -> int:
        """Add a generation after a prompt of at least one token; its number."""
        number, self._added = self._added, self._added + 1
        if max_new_tokens is None or max_new_tokens > 0:
            start = max(0, len(prompt) - self.decoder.context_size)
            self._waiting[number] = Generation(
                tokens=list(prompt),
                sampling=sampling or SamplingConfig(),
                generator=np.random.Generator(np.random.Philox(seed)),
                start=start,
                read=start,
                end=float("inf") if max_new_tokens is None else len(prompt) + max_new_tokens,
            )
        return number

    def remove(self, number: int) -> None:
        """End a generation; one that has ended may be removed too."""
        self._waiting.pop(number, None)
        if generation := self._running.pop(number, None):
            self._free.append(generation.row)

    def step(self) -> dict[int, int]:
        """Draw one token for every generation that has a row: tokens by the generation's number.

        Raises: CheckpointError for a model whose probabilities are not numbers.
        """
        while self._waiting and self._free:
            number = next(iter(self._waiting))
            self._running[number] = self._waiting.pop(number)
            self._running[number].row = self._free.pop()
        if not self._running:
            return {}
        running = self._running.values()
        logits_RV = self.decoder.forward(
            [each.tokens[each.read :] for each in running],
            [each.row for each in running],
            [each.read - each.start for each in running],
        )
        size = self.decoder.context_size
        drawn: dict[int, int] = {}
        finished: list[int] = []
        for (number, each), logits_V in zip(self._running.items(), logits_RV, strict=True):
            tokens, sampling = each.tokens, each.sampling
            context = () if sampling.repetition_penalty == 1 else tokens[-size:]
            token = draw(probabilities(logits_V, sampling, context), each.generator)
            each.read = len(tokens)
            if each.read - each.start == size:
                each.start = each.read = each.read + 1 - max(1, size // 2)
            tokens.append(token)
            drawn[number] = token
            if len(tokens) >= each.end:
                finished.append(number)
        for number in finished:
            self.remove(number)
        return drawn


def tokens(
    source: Decoder | LanguageModel,
    prompt: Sequence[int],
    *,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    cached: bool = True,
) -> Iterator[int]:
    """An endless iterator of sampled tokens after a prompt of at least one.

    A torch model uses a key-value cache, or with `cached=False` reads all again for each token.
    torch's global generator, and so training, is not disturbed.
    """
    # As far as types know, a torch module has every attribute.
    if not isinstance(source, Decoder):  # pyrefly: ignore[unsafe-overlap]
        from hornbook.infer.torch_decoder import TorchDecoder

        source = TorchDecoder(source, cached=cached)
    batch = Batch(source)
    number = batch.add(prompt, sampling, seed)
    while True:
        yield batch.step()[number]
