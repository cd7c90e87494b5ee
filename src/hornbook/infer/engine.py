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
    from hornbook.models.language_model import LanguageModel
    from hornbook.text.arrays import Tokens
    from hornbook.text.tokenizer import Tokenizer

SAMPLE_TEMPERATURE = 0.8
PROMPT_CHARACTERS, PROMPT_SEARCH = 80, 4000


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

    def generate(self, prompt: str = "", **settings: Any) -> str:
        """The text that follows a prompt; `settings` are those of `stream`."""
        return "".join(self.stream(prompt, **settings))

    def stream(
        self,
        prompt: str | Sequence[int] = "",
        *,
        max_new_tokens: int = 500,
        stop: Sequence[str] = (),
        seed: int = 0,
        **sampling: Any,
    ) -> Stream:
        """The text that follows a prompt, in pieces; the prompt is not repeated.

        It ends after `max_new_tokens`, or before the first of the `stop` strings. An empty prompt
        stands for the end of a line, and tokens are taken as they are. `sampling` takes the fields
        of SamplingConfig.
        Raises: UnknownCharacterError for a prompt outside the vocabulary; ConfigError.
        """
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(self.tokenizer.fit(prompt)[0])
        tokens = prompt or [start_token(self.tokenizer)]
        number = self._batch.add(tokens, SamplingConfig(**sampling), seed, max_new_tokens)
        stream = Stream(self._batch, number, Text(self.tokenizer, stop), self.step)
        self._streams[number] = stream
        return stream

    def streams(
        self, prompt: str = "", *, seeds: Sequence[int] = (0,), **settings: Any
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
            if stream is None or stream.push(token):
                self._batch.remove(number)


class Stream:
    """An iterator over the text of one generation, in pieces as they become certain.

    `next` steps the engine until there is text. A server steps the engine itself and calls `take`.
    """

    def __init__(self, batch: Batch, number: int, text: Text, step: Callable[[], None]) -> None:
        self._batch = batch
        self._number = number
        self._text = text
        self._step = step
        self._ready = ""

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

    def push(self, token: int) -> bool:
        """Add a token; whether a stop string has come."""
        self._ready += self._text.push(token)
        return self._text.stopped

    def take(self) -> str:
        """The text that has become certain since the last call."""
        piece, self._ready = self._ready, ""
        return piece + self._text.end() if self.finished else piece

    def close(self) -> None:
        """End the generation."""
        self._batch.remove(self._number)


def first_line(tokenizer: Tokenizer, tokens: Tokens) -> str:
    """The first whole line of a text that is not blank, with its end: a prompt for samples.

    Of a longer line it is the first PROMPT_CHARACTERS.
    """
    lines = tokenizer.decode(tokens[:PROMPT_SEARCH].tolist()).splitlines(keepends=True)
    # The first may be the rest of a line that the split has cut.
    line = next((line for line in (*lines[1:], *lines) if line.strip()), "")
    return line[:PROMPT_CHARACTERS]


def generate_sample(
    model: LanguageModel,
    tokenizer: Tokenizer,
    *,
    max_new_tokens: int,
    temperature: float = SAMPLE_TEMPERATURE,
    seed: int = 0,
    prompt: str = "",
) -> str:
    """A sample of a model, as runs keep it: what `hornbook sample --temperature 0.8` prints."""
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    return Engine.of(model, tokenizer).generate(prompt, **settings)
