"""Writing: tokens drawn one at a time from a model, and the text they make, as it is made.

Never imports torch: the logits come from a `Reader`, which may be a torch model or C.
"""

from __future__ import annotations

import codecs
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from hornbook.config import SamplingConfig
from hornbook.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from hornbook.models import LanguageModel
    from hornbook.text.tokenizer import Tokenizer


@runtime_checkable
class Reader(Protocol):
    """Whatever reads texts side by side and says what may come next: the seam for other models.

    `context_size` is how many positions of a text it remembers.
    """

    context_size: int

    def read(
        self, tokens_RT: Sequence[Sequence[int]], rows: Sequence[int], start: int = 0
    ) -> NDArray[np.float32]:
        """Read on from position `start` of each row: the logits after the last token, [R,V].

        The positions before `start` are those read by earlier calls; 0 begins a text anew.
        """
        ...


def reader_of(source: Reader | LanguageModel, *, cached: bool = True) -> Reader:
    """A reader as it is, and a torch model as one; `cached=False` rereads all for each token."""
    # As far as types know, a torch module has every attribute.
    if isinstance(source, Reader):  # pyrefly: ignore[unsafe-overlap]
        return source
    from hornbook.infer.torch_decoder import ModelReader

    return ModelReader(source, cached=cached)


def probabilities(
    logits_V: ArrayLike, sampling: SamplingConfig, context: Sequence[int] = ()
) -> NDArray[np.float64]:
    """The distribution that the next token is drawn from: [V] logits -> [V], summing to 1.

    Applied in this order: repetition penalty over the tokens of `context`, temperature, top-k,
    min-p, top-p. A temperature of 0 puts everything on the most likely token.
    Sources: Keskar et al. 2019, arXiv:1909.05858 (repetition penalty); Holtzman et al. 2020,
    arXiv:1904.09751 (top-p); Nguyen et al. 2024, arXiv:2407.01082 (min-p).
    """
    score_V = np.asarray(logits_V).astype(np.float64)
    if sampling.repetition_penalty != 1 and len(context) > 0:
        seen = np.array(sorted(set(context)))
        score, penalty = score_V[seen], sampling.repetition_penalty
        score_V[seen] = np.where(score > 0, score / penalty, score * penalty)
    if sampling.temperature == 0:
        likeliest = np.zeros_like(score_V)
        likeliest[score_V.argmax()] = 1.0
        return likeliest
    # The greatest is taken away first: a tiny temperature must not make infinities.
    p_V = np.exp((score_V - score_V.max()) / sampling.temperature)
    p_V /= p_V.sum()
    if 0 < sampling.top_k < len(p_V):
        p_V[np.argpartition(p_V, -sampling.top_k)[: -sampling.top_k]] = 0.0
    if sampling.min_p > 0:
        p_V[p_V < sampling.min_p * p_V.max()] = 0.0
    if sampling.top_p < 1:
        order = np.argsort(-p_V, kind="stable")
        # A token stays while the mass before it falls short of top_p: the first always stays.
        before = p_V[order].cumsum() - p_V[order]
        p_V[order[before >= sampling.top_p * p_V.sum()]] = 0.0
    return p_V / p_V.sum()


def draw(p_V: NDArray[np.float64], generator: np.random.Generator) -> int:
    """One token by lot; never one of probability 0.

    Raises: CheckpointError for probabilities that are not numbers: the weights are no model's.
    """
    cumulative = p_V.cumsum()
    if not cumulative[-1] > 0:
        raise CheckpointError(
            "the model's probabilities are not numbers: its weights are damaged, or its training "
            "diverged"
        )
    return int(np.searchsorted(cumulative / cumulative[-1], generator.random(), side="right"))


class Rows:
    """Texts that go on from one prompt side by side, each drawn by lot from a seed of its own.

    What one row writes does not depend on the others. Up to `context_size` tokens are read.
    When these are full the older half is let go: every token is drawn after at least half of that,
    and only every (context_size / 2)-th token costs more than one position's work.
    """

    def __init__(
        self,
        reader: Reader,
        prompt: Sequence[int],
        sampling: SamplingConfig | None = None,
        seeds: Sequence[int] = (0,),
    ) -> None:
        self.reader = reader
        self.sampling = sampling or SamplingConfig()
        self.generators = [np.random.Generator(np.random.Philox(seed)) for seed in seeds]
        self.texts = [list(prompt) for _ in seeds]
        self.ready: list[deque[int]] = [deque() for _ in seeds]
        self.wanted = set(range(len(seeds)))
        self.start = max(0, len(prompt) - reader.context_size)  # where what is read begins
        self.read = self.start  # and up to where it has been read

    def tokens(self, row: int) -> Iterator[int]:
        """An endless stream of one row's tokens; leaving it takes the row out of the work."""
        try:
            while True:
                if not self.ready[row]:
                    self.advance()
                yield self.ready[row].popleft()
        finally:
            self.wanted.discard(row)

    def advance(self) -> None:
        """Draw one token in every row still wanted."""
        rows = sorted(self.wanted)
        unread = [self.texts[row][self.read :] for row in rows]
        logits_RV = self.reader.read(unread, rows, self.read - self.start)
        for row, logits_V in zip(rows, logits_RV, strict=True):
            context = self.texts[row][-self.reader.context_size :]
            token = draw(probabilities(logits_V, self.sampling, context), self.generators[row])
            self.texts[row].append(token)
            self.ready[row].append(token)
        self.read += len(unread[0])
        if self.read - self.start == self.reader.context_size:
            self.start = self.read = self.read + 1 - max(1, self.reader.context_size // 2)


def tokens(
    source: Reader | LanguageModel,
    prompt: Sequence[int],
    *,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    cached: bool = True,
) -> Iterator[int]:
    """An endless stream of sampled tokens after a prompt of at least one.

    Draws from a generator of its own: torch's global stream, and so training, is undisturbed.
    """
    return Rows(reader_of(source, cached=cached), prompt, sampling, [seed]).tokens(0)


def stream(
    source: Reader | LanguageModel,
    tokenizer: Tokenizer,
    prompt: str = "",
    *,
    max_new_tokens: int = 500,
    sampling: SamplingConfig | None = None,
    stop: Sequence[str] = (),
    seed: int = 0,
) -> Iterator[str]:
    """The text that follows a prompt, in pieces as they become certain; the prompt is not repeated.

    Ends after `max_new_tokens` or before the first of the `stop` strings, wherever token borders
    fall. With no prompt the model goes on from a line's end.
    Raises: UnknownCharacterError for a prompt outside the vocabulary.
    """
    return streams(
        source, tokenizer, prompt,
        max_new_tokens=max_new_tokens, sampling=sampling, stop=stop, seeds=[seed],
    )[0]  # fmt: skip


def streams(
    source: Reader | LanguageModel,
    tokenizer: Tokenizer,
    prompt: str = "",
    *,
    max_new_tokens: int = 500,
    sampling: SamplingConfig | None = None,
    stop: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
) -> list[Iterator[str]]:
    """`stream` for several seeds, written side by side: a pull on one draws in all of them.

    Each text is what `stream` gives for its seed. Take them up in turn, so that none runs on far
    past its stop string, and close those no longer wanted.
    """
    prompt_tokens = tokenizer.encode(prompt) or [start_token(tokenizer)]
    rows = Rows(reader_of(source), prompt_tokens, sampling, seeds)
    marks = [mark for mark in stop if mark]
    return [
        until(spell(islice(rows.tokens(row), max_new_tokens), tokenizer), marks)
        for row in range(len(seeds))
    ]


def in_order(texts: Sequence[Iterator[str]]) -> Iterator[tuple[int, str]]:
    """Numbered pieces, one text after the other, while all are written side by side.

    The first text comes as it is written; each later one begins with all that there is of it by
    then, be it nothing.
    """
    going = dict(enumerate(texts))
    held = [""] * len(texts)
    for present in range(len(texts)):
        yield present, held[present]
        while present in going:
            for number, text in list(going.items()):
                piece = next(text, None)
                if piece is None:
                    del going[number]
                elif number == present:
                    yield number, piece
                else:
                    held[number] += piece


def start_token(tokenizer: Tokenizer) -> int:
    """What a text without a prompt goes on from: a newline, or token 0 where there is none."""
    newline = tokenizer.fit("\n", "skip")[0]
    return tokenizer.encode(newline)[0] if newline else 0


def spell(drawn: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Tokens to text, each character as soon as all its bytes are there.

    Bytes that are not UTF-8 become U+FFFD; a character cut off by the end is left out.
    """
    spelled = tokenizer.token_bytes()
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return filter(None, (decoder.decode(spelled[token]) for token in drawn))


def until(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """Pass text on up to the first of the `stop` strings, holding back what may begin one."""
    beginnings = {mark[:length] for mark in stop for length in range(1, len(mark))}
    longest = max(map(len, beginnings), default=0)
    held = ""
    for piece in pieces:
        held += piece
        found = [place for place in map(held.find, stop) if place >= 0]
        if found:
            held = held[: min(found)]
            break
        lengths = range(min(longest, len(held)), 0, -1)
        keep = next((n for n in lengths if held[-n:] in beginnings), 0)
        ready, held = held[: len(held) - keep], held[len(held) - keep :]
        if ready:
            yield ready
    if held:
        yield held
