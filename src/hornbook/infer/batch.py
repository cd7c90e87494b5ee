"""Batched generation of tokens: rows with prompts, positions and settings of their own."""

from __future__ import annotations

from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hornbook.config import SamplingConfig
from hornbook.infer.decoder import Decoder
from hornbook.infer.native_sampler import NO_TEXT, NativeSampler, Packed, pack_text
from hornbook.infer.sampling import LogProbs, Row, distributions, draw, log_probs, uniforms
from hornbook.kernels import NativeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from hornbook.models.language_model import LanguageModel


# New tokens that a step reads of prompts. More would make the generations beside them wait: a step
# that reads so many beside 64 rows takes three passes of decoder.c.
PREFILL_TOKENS = 128
# A shorter beginning that two texts share is read again sooner than it is copied.
SHARED_TOKENS = 16


@dataclass(slots=True, eq=False)
class Generation:
    """A text in the making; `row` is its row of the decoder, once it has one.

    The row holds the tokens from `start` on, of which those before `read` have been read.
    """

    tokens: list[int]
    prompt_length: int
    sampling: SamplingConfig
    uniforms: Iterator[float]
    end: float  # the number of tokens, prompt included, at which it is finished
    start: int = 0
    read: int = 0
    row: int = -1
    top_logprobs: int | None = None  # how many log-probabilities are wanted beside a token's own
    scored: list[int] = field(default_factory=list)  # the rest of the prompt, last token first
    packed: Packed = field(init=False)
    copied: array[int] | None = field(init=False)  # the tokens for sampler.c, where it needs them

    def __post_init__(self) -> None:
        self.packed = Packed.of(self.sampling)
        self.copied = array("i", self.tokens) if self.sampling.changes_logits else None

    def as_text(self, context_size: int) -> bytes:
        """`as_row` for sampler.c."""
        if self.copied is None:
            return NO_TEXT
        length = len(self.tokens)
        return pack_text(self.copied, max(0, length - context_size), self.prompt_length)

    def as_row(self, context_size: int) -> Row:
        """What the next token depends on."""
        sampling = self.sampling
        if not sampling.changes_logits:
            return Row(sampling)
        return Row(sampling, self.tokens[-context_size:], self.tokens[self.prompt_length :])


class Batch:
    """Generations that a decoder runs together; they join and leave at any step.

    What one generates does not depend on the others. Those that find no row free wait for one. Each
    reads up to `context_size` tokens. When these are full it drops the older half and reads the
    newer half again: it always sees at least half a context, and only one token in
    context_size / 2 costs more than one position's work.

    Prompts are read in pieces, PREFILL_TOKENS a step. A beginning that another text has read, one
    that is running or the last of a free row, is copied and not read again.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._sampler: NativeSampler | None = None
        with suppress(NativeUnavailableError):  # numpy draws the same tokens
            self._sampler = NativeSampler()
        self.logprobs: dict[int, LogProbs] = {}
        self._free = list(range(decoder.rows))[::-1]
        self._running: dict[int, Generation] = {}
        self._waiting: dict[int, Generation] = {}
        self._last: dict[int, Generation] = {}  # the last that had each row
        self._added = 0

    def __len__(self) -> int:
        """The number of unfinished generations."""
        return len(self._running) + len(self._waiting)

    def __contains__(self, number: int) -> bool:
        """Whether a generation is unfinished."""
        return number in self._running or number in self._waiting

    @property
    def waiting(self) -> int:
        """The number of generations without a row."""
        return len(self._waiting)

    def add(
        self,
        prompt: Sequence[int],
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        max_new_tokens: int | None = None,
        *,
        top_logprobs: int | None = None,
        scored: bool = False,
    ) -> int:
        """Add a generation after a prompt of at least one token; its number.

        With `top_logprobs`, each token's log-probabilities are in `logprobs` after its step. A
        `scored` prompt is read token by token, and `step` returns its tokens but the first as if
        they had been drawn.
        """
        number, self._added = self._added, self._added + 1
        start = max(0, len(prompt) - self.decoder.context_size)
        rest = list(prompt[:0:-1]) if scored else []
        if max_new_tokens is None or max_new_tokens > 0 or rest:
            self._waiting[number] = Generation(
                tokens=list(prompt[:1] if scored else prompt),
                prompt_length=len(prompt),
                sampling=sampling or SamplingConfig(),
                uniforms=uniforms(seed),
                end=float("inf") if max_new_tokens is None else len(prompt) + max_new_tokens,
                start=0 if scored else start,
                read=0 if scored else start,
                top_logprobs=top_logprobs,
                scored=rest,
            )
        return number

    def remove(self, number: int) -> None:
        """End a generation; one that has ended may be removed too."""
        self._waiting.pop(number, None)
        if generation := self._running.pop(number, None):
            self._free.append(generation.row)

    def step(self) -> dict[int, int]:
        """Draw a token for every generation that has read its prompt: tokens by its number.

        Raises: CheckpointError for a model whose probabilities are not numbers.
        """
        self.logprobs = {}
        if self._waiting and self._free:
            self._give_rows()
        drawing: list[tuple[int, Generation]] = []
        reading: list[Generation] = []
        new: list[list[int]] = []
        left = PREFILL_TOKENS
        for number, each in self._running.items():
            length = len(each.tokens) - each.read
            if length == 1:
                new.append(each.tokens[-1:])
                drawing.append((number, each))
            elif left:
                piece = each.tokens[each.read : each.read + left]
                left -= len(piece)
                new.append(piece)
                if len(piece) == length:
                    drawing.append((number, each))
            else:
                continue
            reading.append(each)
        if not reading:
            return {}
        logits_RV = self.decoder.forward(
            new, [each.row for each in reading], [each.read - each.start for each in reading]
        )
        for each, piece in zip(reading, new, strict=True):
            each.read += len(piece)
        if len(drawing) < len(reading):
            logits_RV = logits_RV[[each.read == len(each.tokens) for each in reading]]
        return self._draw(drawing, logits_RV) if drawing else {}

    def _draw(
        self, drawing: list[tuple[int, Generation]], logits_RV: NDArray[np.float32]
    ) -> dict[int, int]:
        size = self.decoder.context_size
        # A scored prompt takes no random numbers, so that what follows it is the same unscored.
        uniform_R = [0.0 if each.scored else next(each.uniforms) for _, each in drawing]
        if self._sampler:
            tokens = self._sampler.draw(
                logits_RV,
                [each.packed.setting for _, each in drawing],
                [each.as_text(size) for _, each in drawing],
                uniform_R,
            )
        else:
            p_RV = distributions(logits_RV, [each.as_row(size) for _, each in drawing])
            tokens = draw(p_RV, uniform_R)
        drawn: dict[int, int] = {}
        wanted: list[tuple[int, int, int]] = []  # place, token, how many of the most likely
        for place, ((number, each), token) in enumerate(zip(drawing, tokens, strict=True)):
            if each.scored:
                token = each.scored.pop()  # noqa: PLW2901
            if each.top_logprobs is not None:
                wanted.append((place, token, each.top_logprobs))
            if each.read - each.start == size:
                each.start = each.read = each.read + 1 - max(1, size // 2)
            each.tokens.append(token)
            if each.copied is not None:
                each.copied.append(token)
            drawn[number] = token
            if len(each.tokens) >= each.end:
                self.remove(number)
        if wanted:
            places, chosen, tops = zip(*wanted, strict=True)
            found = log_probs(logits_RV[[*places]], chosen, tops)
            self.logprobs = dict(zip((drawing[place][0] for place in places), found, strict=True))
        return drawn

    def _give_rows(self) -> None:
        """Give the free rows to those that wait, each with what has been read of its prompt."""
        for number in list(self._waiting):
            if not self._free:
                return
            each = self._waiting[number]
            row, source, shared = self._nearest(each)
            if source is not None and shared > source.read - source.start:
                continue  # another is reading the same just now
            if source is not None and source.row != row:
                self.decoder.copy(source.row, row, shared)
            self._free.remove(row)
            self._running[number] = self._last[row] = self._waiting.pop(number)
            each.row, each.read = row, each.start + shared

    def _nearest(self, wanted: Generation) -> tuple[int, Generation | None, int]:
        """A free row for a text, the text that shares most of its beginning, and how much.

        The last token must be read in any case: it gives the logits.
        """
        text = wanted.tokens[wanted.start : -1]
        best: tuple[int, bool, Generation | None] = (SHARED_TOKENS - 1, False, None)
        for other in self._last.values():
            free = other.row in self._free
            until = other.read if free else len(other.tokens)
            shared = common_prefix(text, other.tokens[other.start : until])
            if (shared, free) > best[:2]:  # in a free row nothing has to be copied
                best = (shared, free, other)
        shared, free, source = best
        if source is None:
            unused = (row for row in reversed(self._free) if row not in self._last)
            return next(unused, self._free[0]), None, 0
        return source.row if free else self._free[0], source, shared


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    same, different = 0, min(len(first), len(second)) + 1
    if different == 1 or first[0] != second[0]:
        return 0
    while different - same > 1:
        middle = (same + different) // 2
        if first[same:middle] == second[same:middle]:
            same = middle
        else:
            different = middle
    return same


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
        yield from (token for each, token in batch.step().items() if each == number)
