"""Responses: a completion of a plain text as OpenAI's newer API writes it, whole or as events."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

from fastapi.sse import format_sse_event

from hornbook.errors import HornbookError
from hornbook.serve.completions import ENCODE, LINE_ENDS, Completion
from hornbook.serve.requests import ResponseRequest
from hornbook.serve.worker import Work

NOTHING: list[object] = []


class PlainResponse:
    """A request of /v1/responses that was accepted."""

    def __init__(self, completion: Completion, request: ResponseRequest) -> None:
        self._completion = completion
        self._request = request
        self._id = f"resp_{secrets.token_hex(12)}"
        self._message = f"msg_{secrets.token_hex(12)}"
        self._number = -1  # of the last event

    @property
    def work(self) -> Work:
        """Its generation."""
        return self._completion.work

    async def whole(self) -> bytes:
        """The response of a request that does not stream."""
        pieces = [piece async for piece in self.work]
        return ENCODE(self._response("".join(each.text for each in pieces), pieces[-1].finish))

    async def events(self) -> AsyncIterator[bytes]:
        """The response of a request that streams: the official client's events for plain text."""
        text, finish = "", None
        begun = self._response(None, None)
        yield self._event("created", response=begun)
        yield self._event("in_progress", response=begun)
        message = self._item("in_progress") | {"content": NOTHING}
        yield self._event("output_item.added", output_index=0, item=message)
        yield self._part("content_part.added", part=content(""))
        try:
            async for piece in self.work:
                finish = piece.finish
                if piece.text:
                    text += piece.text
                    yield self._part("output_text.delta", delta=piece.text, logprobs=NOTHING)
        except HornbookError as error:
            yield self._typed("error", code=None, message=str(error), param=None)
            return
        yield self._part("output_text.done", text=text, logprobs=NOTHING)
        yield self._part("content_part.done", part=content(text))
        whole = self._response(text, finish)
        status = "completed" if finish == "stop" else "incomplete"
        item = self._item(status) | {"content": [content(text)]}
        yield self._event("output_item.done", output_index=0, item=item)
        yield self._event(status, response=whole)

    def _part(self, name: str, **more: object) -> bytes:
        return self._event(name, item_id=self._message, output_index=0, content_index=0, **more)

    def _event(self, name: str, **more: object) -> bytes:
        return self._typed(f"response.{name}", **more)

    def _typed(self, name: str, **more: object) -> bytes:
        self._number += 1
        found = {"type": name, "sequence_number": self._number} | more
        return format_sse_event(event=name, data_str=ENCODE(found).decode().translate(LINE_ENDS))

    def _item(self, status: str) -> dict[str, object]:
        return {"type": "message", "id": self._message, "role": "assistant", "status": status}

    def _response(self, text: str | None, finish: str | None) -> dict[str, Any]:
        """OpenAI's response object; of one that has just begun, `text` is None."""
        read, drawn = self._completion.prompt_tokens, self.work.generated
        usage = {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": drawn,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + drawn,
        }
        begun, whole = text is None, finish == "stop"
        status = "in_progress" if begun else "completed" if whole else "incomplete"
        cut = None if begun or whole else {"reason": "max_output_tokens"}
        item = self._item(status) | {"content": [content(text or "")]}
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._completion.created,
            "status": status,
            "incomplete_details": cut,
            "error": None,
            "instructions": None,
            "metadata": {},
            "model": self._completion.model,
            "output": NOTHING if begun else [item],
            "parallel_tool_calls": False,
            "temperature": self._request.temperature,
            "top_p": self._request.top_p,
            "tool_choice": "none",
            "tools": NOTHING,
            "usage": None if begun else usage,
        }


def content(text: str) -> dict[str, object]:
    """A text as a part of a message."""
    return {"type": "output_text", "text": text, "annotations": NOTHING}
