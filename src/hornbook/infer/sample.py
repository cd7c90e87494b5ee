"""The samples that a run shows: what they follow, and how that is told from what is generated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hornbook.infer.engine import Engine

if TYPE_CHECKING:
    from hornbook.models.language_model import LanguageModel
    from hornbook.text.arrays import Tokens
    from hornbook.text.dataset import Dataset
    from hornbook.text.tokenizer import Tokenizer

SAMPLE_TEMPERATURE = 0.8
PROMPT_CHARACTERS, PROMPT_SEARCH = 80, 4000


@dataclass(frozen=True)
class Sample:
    """A generated text, and the prompt that it follows."""

    prompt: str
    text: str

    @property
    def bracketed(self) -> str:
        """The prompt in brackets, before its line end; empty for none."""
        line = self.prompt.rstrip("\r\n")
        return f"[{line}]{self.prompt[len(line) :]}" if self.prompt else ""

    def __str__(self) -> str:
        return self.bracketed + self.text


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
    dataset: Dataset,
    *,
    max_new_tokens: int,
    temperature: float = SAMPLE_TEMPERATURE,
    seed: int = 0,
) -> Sample:
    """A sample of a model, as a run shows it: it follows the first line of the validation part.

    Of conversations it is an answer to the first one.

    From an empty prompt a model of an indented poem would generate spaces without end.
    """
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    engine = Engine.of(model, dataset.tokenizer)
    if dataset.answers is not None:
        from hornbook.text.chat import chat_stops

        asked = dataset.validation[: int(dataset.answers[1].argmax())].tolist()
        answer = engine.generate(asked, stop=chat_stops(dataset.tokenizer), **settings)
        return Sample(dataset.tokenizer.decode(asked), answer)
    prompt = first_line(dataset.tokenizer, dataset.validation)
    return Sample(prompt, engine.generate(prompt, **settings))
