"""How a conversation becomes a prompt: the one place that asks a run for its chat template."""

from collections.abc import Callable, Sequence

from hornbook.runs.folder import RunFolder
from hornbook.serve.errors import ApiError
from hornbook.serve.requests import Message

# A conversation to the text that the model goes on from, and the strings that end its answer.
Template = Callable[[Sequence[Message]], tuple[str, list[str]]]


def chat_template(folder: RunFolder) -> Template | None:
    """The chat template of a run; None for a model that was not tuned to chat.

    No run has one in the formats up to 2. A format that does is read here.
    """
    del folder
    return None


def conversation(
    template: Template | None, name: str, messages: Sequence[Message]
) -> tuple[str, list[str]]:
    """The prompt of a conversation with the model `name`, and what ends the answer.

    Raises: ApiError for a model without a template.
    """
    if template is None:
        raise ApiError(
            400,
            f"{name} was not tuned to chat, so it has no chat template: it continues text; send "
            "the text as `prompt` to /v1/completions",
            param="model",
            code="not_a_chat_model",
        )
    return template(messages)
