"""Conversations as tokens: by a model's chat template, and which of the tokens are answers.

A template is somebody's Jinja program: it runs in Jinja's sandbox, and what people write never
passes through it, so that no message can spell a special token.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import numpy as np

from hornbook.errors import ConfigError, DataError, reason
from hornbook.language import msg
from hornbook.text.conversations import END, MARKS
from hornbook.text.tokenizer.characters import CharTokenizer
from hornbook.text.tokenizer.pretrained import PretrainedTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from hornbook.text.conversations import Message
    from hornbook.text.tokenizer import Tokenizer
    from hornbook.text.tokenizer.base import IdArray

INSTALL: Final = "pip install 'hornbook[pretrained]'"
# In place of a message's text: two characters for private use, which no template contains.
MARK: Final = re.compile("\ue000([0-9]+)\ue001")
UNMARKED: Final = re.compile(f"[{END}{''.join(MARKS.values())}]")
# Of a model without a chat template: a character before each message, and one after it.
SIMPLE_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}" + MARKS["system"] + "{% elif message['role'] == 'user' "
    "%}" + MARKS["user"] + "{% else %}" + MARKS["assistant"] + "{% endif %}"
    "{{ message['content'] }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}" + MARKS["assistant"] + "{% endif %}"
)
# Of a model that has the special tokens of a chat, and no template.
CHATML: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class TemplateError(DataError):
    """A chat template that fails, or refuses a conversation."""


class Answered(NamedTuple):
    """Conversations as tokens, one after the other."""

    tokens: IdArray  # [N]
    answers: NDArray[np.bool_]  # [N], whether a token is the model's to write
    starts: NDArray[np.int64]  # where each conversation begins


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """The special tokens of a model of others, by their names; ours have none."""
    return tokenizer.special if isinstance(tokenizer, PretrainedTokenizer) else {}


def simple_template(tokenizer: Tokenizer) -> str:
    """The template for a model that has none of its own.

    Raises: DataError for a tokenizer that lacks the characters which would mark the roles.
    """
    special = special_tokens(tokenizer)
    if "<|im_start|>" in special and "<|im_end|>" in special:
        return CHATML
    if isinstance(tokenizer, CharTokenizer):  # its alphabet grows
        return SIMPLE_TEMPLATE
    if not all(map(tokenizer.knows, (*MARKS.values(), END))):
        raise DataError(
            msg(
                "the model has no chat template, and its tokenizer lacks control characters to "
                "mark roles with: give a template with --set chat_template=..."
            )
        )
    return SIMPLE_TEMPLATE


def chat_stops(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The strings that end an answer: special tokens and marks, which no answer contains."""
    special = special_tokens(tokenizer)
    return (*special, *filter(tokenizer.knows, (END, *MARKS.values())))


def chat_ends(tokenizer: Tokenizer) -> set[int]:
    """The ids of the tokens of `chat_stops`."""
    special = special_tokens(tokenizer)
    marks = filter(tokenizer.knows, (END, *MARKS.values()))
    return {*special.values(), *(tokenizer.encode(mark)[0] for mark in marks)}


def end_of_answers(template: str, tokenizer: Tokenizer) -> int | None:
    """The token that ends an answer by a template; None where none does, or it fails.

    Raises: ConfigError without jinja2.
    """
    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    try:
        *_, tail = pieces(template, messages, tokenizer, answering=False)
    except TemplateError:
        return None
    ends = chat_ends(tokenizer)
    return next((i for i in tail[0] if i in ends), None) if tail[1] is None else None


def chat_tokens(template: str, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The tokens of a conversation, up to where the model's answer begins.

    Raises: TemplateError where the template fails; ConfigError without jinja2.
    """
    found = pieces(template, messages, tokenizer, answering=True)
    return [i for ids, _ in found for i in ids]


def pieces(
    template: str, messages: Sequence[Message], tokenizer: Tokenizer, *, answering: bool
) -> Iterator[tuple[list[int], str | None]]:
    """The tokens of each content, with its role, and of what the template puts between, with None.

    Raises: TemplateError, ConfigError.
    """
    marked = [{**each, "content": f"\ue000{i}\ue001"} for i, each in enumerate(messages)]
    for i, piece in enumerate(MARK.split(rendered(template, marked, answering=answering))):
        if i % 2 and int(piece) < len(messages):
            message = messages[int(piece)]
            # A question may have any character; those of a text to learn from are known.
            policy = "skip" if answering else "error"
            content, _ = tokenizer.fit(UNMARKED.sub("", message["content"]), policy)
            yield tokenizer.encode(content), message["role"]
        elif piece and not i % 2:
            yield marked_ids(tokenizer, piece), None


def marked_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a template's own text, in which special tokens stand for themselves."""
    if isinstance(tokenizer, PretrainedTokenizer):
        return tokenizer.encode_marked(text)
    return tokenizer.encode(text)


def answered(template: str, given: Iterable[Sequence[Message]], tokenizer: Tokenizer) -> Answered:
    """Conversations as tokens. Answers are the assistant's contents, each with the token after it.

    That token is the first special one of what the template puts there: it ends the answer.
    Raises: TemplateError naming the conversation that the template refuses; ConfigError.
    """
    ends = chat_ends(tokenizer)
    ids: list[int] = []
    answers: list[bool] = []
    starts: list[int] = []
    for number, messages in enumerate(given, 1):
        starts.append(len(ids))
        role = None
        try:
            for found, said_by in pieces(template, messages, tokenizer, answering=False):
                theirs = len(found) if said_by == "assistant" else 0
                if said_by is None and role == "assistant":
                    theirs = next((n for n, i in enumerate(found, 1) if i in ends), 0)
                ids += found
                answers += [True] * theirs + [False] * (len(found) - theirs)
                role = said_by
        except TemplateError as error:
            raise TemplateError(
                msg("conversation {number:,}: {error}", number=number, error=error)
            ) from None
    kind = np.min_scalar_type(tokenizer.vocab_size - 1)
    return Answered(np.array(ids, kind), np.array(answers, np.bool_), np.array(starts, np.int64))


def rendered(template: str, messages: Sequence[Message], *, answering: bool = True) -> str:
    """What a template makes of messages, ready for an answer if `answering`.

    Raises: TemplateError, ConfigError.
    """
    if not find_spec("jinja2"):
        raise ConfigError(
            msg("a chat template needs the package jinja2: {install}", install=INSTALL)
        )
    # Of somebody's program any error may come.
    try:
        made: str = compiled(template).render(
            messages=list(messages),
            add_generation_prompt=answering,
            bos_token="",
            eos_token="",
            raise_exception=refuse,
        )
    except Exception as error:  # noqa: BLE001
        why = reason(error, 200)
        raise TemplateError(msg("the run's chat template fails: {why}", why=why)) from None
    return made


@lru_cache(maxsize=8)
def compiled(template: str) -> Any:
    """A template, in Jinja's sandbox, which by itself would take memory for any product."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Bounded(ImmutableSandboxedEnvironment):
        """Multiplies numbers alone: a string times 10 ** 10 would take ten gigabytes."""

        intercepted_binops = frozenset({"*", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" or not all(isinstance(each, int | float) for each in (left, right)):
                refuse(
                    msg(
                        "the operator {operator} is for numbers, and ** is for nothing here",
                        operator=operator,
                    )
                )
            return super().call_binop(context, operator, left, right)

    return Bounded(trim_blocks=True, lstrip_blocks=True).from_string(template)


def refuse(message: str) -> NoReturn:
    """What a template calls for messages that it does not take."""
    raise TemplateError(message)
