"""The engine: prompts in, text out, from any model, with or without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

from hornbook.config import SamplingConfig
from hornbook.infer.batch import Batch
from hornbook.infer.text import Text, start_token

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hornbook.infer.decoder import Decoder
    from hornbook.infer.sampling import LogProbs
    from hornbook.models.language_model import LanguageModel
    from hornbook.text.tokenizer import Tokenizer


class Engine:
    """Generates text with a decoder and a tokenizer.

    All its streams form one batch: they begin and end at any time, and a step draws a token in each
    of them. What a stream generates does not depend on the others. Not thread-safe.
    `why` names what the decoder runs on; `remark` is a message for the user ("" for none).
    """

    def __init__(
        self, decoder: Decoder, tokenizer: Tokenizer, *, why: str = "", remark: str = ""
    ) -> None:
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.why = why
        self.remark = remark
        self._batch = Batch(decoder)
        # Weak, so that a stream that nobody holds any more leaves the batch.
        self._streams: WeakValueDictionary[int, Stream] = WeakValueDictionary()

    @classmethod
    def of(cls, model: LanguageModel, tokenizer: Tokenizer, *, rows: int = 1) -> Self:
        """An engine for a model's weights as they are now; see `torch_decoder.fastest_decoder`."""
        from hornbook.infer.torch_decoder import fastest_decoder

        return cls(fastest_decoder(model, rows=rows), tokenizer)

    @property
    def waiting(self) -> int:
        """The number of streams that have no row of the decoder yet."""
        return self._batch.waiting

    def encode(self, prompt: str, unknown: str = "error") -> list[int]:
        """The tokens of a prompt; an empty one stands for the end of a line.

        Raises: UnknownCharacterError for a prompt outside the vocabulary.
        """
        prompt, _ = self.tokenizer.fit(prompt, unknown)
        return self.tokenizer.encode(prompt) or [start_token(self.tokenizer)]

    def generate(self, prompt: str | Sequence[int] = "", **settings: Any) -> str:
        """The text that follows a prompt; `settings` are those of `stream`."""
        return "".join(self.stream(prompt, **settings))

    def stream(
        self,
        prompt: str | Sequence[int] = "",
        *,
        max_new_tokens: int = 500,
        stop: Sequence[str] = (),
        seed: int = 0,
        top_logprobs: int | None = None,
        scored: bool = False,
        **sampling: Any,
    ) -> Stream:
        """The text that follows a prompt, in pieces; the prompt is not repeated.

        It ends after `max_new_tokens`, or before the first of the `stop` strings. An empty prompt
        stands for the end of a line. `sampling` takes the fields of SamplingConfig. With
        `top_logprobs` the stream keeps each token's log-probability, and those of so many of the
        most likely; with `scored`, those of the prompt's tokens as well.
        Raises: UnknownCharacterError for a prompt outside the vocabulary; ConfigError.
        """
        tokens = self.encode(prompt) if isinstance(prompt, str) else prompt
        number = self._batch.add(
            tokens,
            SamplingConfig(**sampling),
            seed,
            max_new_tokens,
            top_logprobs=top_logprobs,
            scored=scored,
        )
        text = Text(self.tokenizer, stop)
        unread = len(tokens) - 1 if scored else 0
        stream = Stream(self._batch, number, text, self.step, unread)
        self._streams[number] = stream
        return stream

    def streams(
        self, prompt: str | Sequence[int] = "", *, seeds: Sequence[int] = (0,), **settings: Any
    ) -> list[Stream]:
        """A `stream` for each seed."""
        return [self.stream(prompt, seed=seed, **settings) for seed in seeds]

    def batch(self, prompts: Sequence[str], **settings: Any) -> list[str]:
        """What `generate` gives for each prompt, generated together."""
        streams = [self.stream(prompt, **settings) for prompt in prompts]
        return ["".join(stream) for stream in streams]

    def step(self) -> None:
        """Draw one token in every unfinished stream that has a row of the decoder.

        Raises: CheckpointError for a model whose probabilities are not numbers.
        """
        for number, token in self._batch.step().items():
            stream = self._streams.get(number)
            if stream is None or stream.push(token, self._batch.logprobs.get(number)):
                self._batch.remove(number)

    def clear(self) -> None:
        """End every stream."""
        for stream in list(self._streams.values()):
            stream.close()


class Stream:
    """An iterator over the text of one generation, in pieces as they become certain.

    `next` steps the engine until there is text. A server steps the engine itself and calls `take`.
    """

    def __init__(
        self, batch: Batch, number: int, text: Text, step: Callable[[], None], unread: int = 0
    ) -> None:
        self._batch = batch
        self._number = number
        self._text = text
        self._step = step
        self._ready = ""
        self._unread = unread  # tokens of a scored prompt that are still to come
        self.drawn = 0
        self.scores: list[tuple[int, LogProbs]] = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        while not self._ready and not self.finished:
            self._step()
        if piece := self.take():
            return piece
        raise StopIteration

    @property
    def finished(self) -> bool:
        """Whether no more tokens will be drawn."""
        return self._number not in self._batch

    @property
    def stopped(self) -> bool:
        """Whether it ended at a stop string."""
        return self._text.stopped

    def push(self, token: int, logprobs: LogProbs | None = None) -> bool:
        """Add a token; whether a stop string has come."""
        if logprobs is not None:
            self.scores.append((token, logprobs))
        if self._unread:
            self._unread -= 1
            return False
        self.drawn += 1
        self._ready += self._text.push(token)
        return self._text.stopped

    def take(self) -> str:
        """The text that has become certain since the last call."""
        piece, self._ready = self._ready, ""
        return piece + self._text.end() if self.finished else piece

    def close(self) -> None:
        """End the generation."""
        self._batch.remove(self._number)
