"""How the messages of a request become a prompt."""

from collections.abc import Sequence

from hornbook.pretrained.chat import chat_template
from hornbook.serve.errors import ApiError
from hornbook.serve.requests import Message
from hornbook.serve.served import ServedModel
from hornbook.text.chat import TemplateError, chat_stops, chat_tokens


def conversation(
    model: ServedModel, messages: Sequence[Message]
) -> tuple[list[int], tuple[str, ...]]:
    """The tokens of a conversation, and the strings that end the model's answer.

    Raises: ApiError for a model without a chat template, and for messages that it refuses.
    """
    template = chat_template(model.folder)
    if template is None:
        raise ApiError(
            400,
            f"{model.name} was not tuned to chat, so it has no chat template: it continues text; "
            "send the text as `prompt` to /v1/completions",
            param="model",
            code="not_a_chat_model",
        )
    tokenizer = model.worker.engine.tokenizer
    # OpenAI's newer name for "system", which no template knows.
    said = [
        {"role": "system" if each.role == "developer" else each.role, "content": each.content}
        for each in messages
    ]
    try:
        return chat_tokens(template, said, tokenizer), chat_stops(tokenizer)
    except TemplateError as error:
        raise ApiError(400, str(error), param="messages") from None
