"""Conversations with a model that has a chat template: messages to tokens.

A template is somebody's Jinja program: it runs in Jinja's sandbox, and what people write never
passes through it, so that no message can spell a special token.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, NoReturn

from hornbook.errors import ConfigError
from hornbook.pretrained.gguf_source import INSTALL
from hornbook.pretrained.source import SourceError
from hornbook.text.tokenizer.pretrained import PretrainedTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hornbook.runs.folder import RunFolder
    from hornbook.text.tokenizer import Tokenizer

# In place of a message's text: two characters for private use, which no template contains.
MARK: Final = re.compile("\ue000([0-9]+)\ue001")
Message = dict[str, str]


def chat_template(folder: RunFolder) -> str | None:
    """The chat template of a run; None for one that continues texts.

    Raises: CheckpointError when the run's facts cannot be read.
    """
    found = folder.environment_facts().get("chat_template")
    return found if isinstance(found, str) else None


def chat_tokens(template: str, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The tokens of a conversation, up to where the model's answer begins.

    Raises: SourceError where the template fails; ConfigError for a tokenizer without special
    tokens, and without jinja2.
    """
    if not isinstance(tokenizer, PretrainedTokenizer):
        raise ConfigError("a chat needs special tokens, and this run's tokenizer has none")
    marked = [{**each, "content": f"\ue000{i}\ue001"} for i, each in enumerate(messages)]
    ids: list[int] = []
    for i, piece in enumerate(MARK.split(rendered(template, marked))):
        if i % 2 and int(piece) < len(messages):
            content, _ = tokenizer.fit(messages[int(piece)]["content"], "skip")
            ids += tokenizer.encode(content)
        elif piece:
            ids += tokenizer.encode_marked(piece)
    return ids


def chat_stops(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The strings that end an answer: all special tokens, which no answer contains."""
    return tuple(tokenizer.special) if isinstance(tokenizer, PretrainedTokenizer) else ()


def rendered(template: str, messages: Sequence[Message]) -> str:
    """What a template makes of messages, ready for an answer. Raises: SourceError, ConfigError."""
    if not find_spec("jinja2"):
        raise ConfigError(f"a chat template needs the package jinja2: {INSTALL}")
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    try:
        return environment.from_string(template).render(
            messages=list(messages),
            add_generation_prompt=True,
            bos_token="",
            eos_token="",
            raise_exception=refuse,
        )
    # Of somebody's program any error may come.
    except Exception as error:  # noqa: BLE001
        why = " ".join(str(error).split())[:200]
        raise SourceError(f"the run's chat template fails: {why}") from None
