"""Conversations with a run that has a chat template: messages to tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hornbook.pretrained.source import SourceError
from hornbook.text import chat
from hornbook.text.chat import chat_stops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hornbook.runs.folder import RunFolder
    from hornbook.text.conversations import Message
    from hornbook.text.tokenizer import Tokenizer

__all__ = ["chat_stops", "chat_template", "chat_tokens"]


def chat_template(folder: RunFolder) -> str | None:
    """The chat template of a run; None for one that continues texts.

    Raises: CheckpointError when the run's facts cannot be read.
    """
    found = folder.environment_facts().get("chat_template")
    return found if isinstance(found, str) else None


def chat_tokens(template: str, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The tokens of a conversation, up to where the model's answer begins.

    Raises: SourceError where the template fails; ConfigError without jinja2.
    """
    try:
        return chat.chat_tokens(template, messages, tokenizer)
    except chat.TemplateError as error:
        raise SourceError(str(error)) from None
