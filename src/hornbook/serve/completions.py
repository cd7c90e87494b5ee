"""Completions: from a request to generations, and from their pieces to OpenAI's objects."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from fastapi.sse import format_sse_event

from hornbook.errors import HornbookError
from hornbook.infer.sampling import LogProbs
from hornbook.infer.text import Text
from hornbook.serve.chat import conversation
from hornbook.serve.errors import ApiError
from hornbook.serve.requests import (
    MOST_PROMPT,
    ChatRequest,
    CompletionRequest,
    Prompt,
    Unknown,
)
from hornbook.serve.served import ServedModel
from hornbook.serve.worker import Part, Piece, Work
from hornbook.text.tokenizer import Tokenizer

# All of a request's prompts and choices together: as many as an engine runs at once.
MOST_PARTS = 64


# pydantic takes several times as long to write an object.
ENCODE = msgspec.json.Encoder().encode
# Line ends to clients that split a stream by Python's idea of lines; JSON may escape them.
LINE_ENDS = {ord(each): f"\\u{ord(each):04x}" for each in "\x85\u2028\u2029"}


@dataclass
class Choice:
    """One completion of a response, as it grows."""

    tokenizer: Tokenizer
    prompt: str  # what it begins with, "" unless the prompt is echoed
    wants_logprobs: bool
    scored: list[int] = field(default_factory=list)  # tokens of the prompt, where they are scored
    started: bool = False

    def __post_init__(self) -> None:
        self._characters = 0
        self._text = Text(self.tokenizer)
        self._bytes = self.tokenizer.token_bytes()

    def begin(self) -> str:
        """What comes before the first piece: the prompt, if it is echoed."""
        text, self.started = "" if self.started else self.prompt, True
        return text

    def logprobs(self, scores: Sequence[tuple[int, LogProbs]]) -> dict[str, Any]:
        """OpenAI's logprobs of these tokens. The first token of a scored prompt has none."""
        rows: list[tuple[int, LogProbs | None]] = list(scores)
        if not self.started:
            rows = [*((token, None) for token in self.scored[:1]), *rows]
        offsets = []
        for token, _ in rows:
            offsets.append(self._characters)
            self._characters += len(self._text.push(token))
        return {
            "tokens": [self._name(token) for token, _ in rows],
            "token_logprobs": [each and each.token for _, each in rows],
            "top_logprobs": [
                each and {self._name(token): value for token, value in reversed(each.top)}
                for _, each in rows
            ],
            "text_offset": offsets,
        }

    def chat_logprobs(self, scores: Sequence[tuple[int, LogProbs]]) -> dict[str, Any]:
        """OpenAI's logprobs of a chat's tokens."""

        def about(token: int, value: float) -> dict[str, Any]:
            return {
                "token": self._name(token),
                "logprob": value,
                "bytes": list(self._bytes[token]),
            }

        content = [
            about(token, each.token) | {"top_logprobs": [about(*top) for top in each.top]}
            for token, each in scores
        ]
        return {"content": content, "refusal": None}

    def _name(self, token: int) -> str:
        """A token as text; a part of a character by its bytes, as OpenAI writes it."""
        raw = self._bytes[token]
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


@dataclass
class Completion:
    """A request that was accepted: its work, and how its response is written."""

    chat: bool
    model: str
    work: Work
    choices: list[Choice]
    prompt_tokens: int
    with_usage: bool = False

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{secrets.token_hex(12)}"
        self.created = int(time.time())

    async def whole(self) -> bytes:
        """The response of a request that does not stream."""
        pieces = [Piece(number, "") for number in range(len(self.choices))]
        async for piece in self.work:
            before = pieces[piece.part]
            text, scores = before.text + piece.text, [*before.scores, *piece.scores]
            pieces[piece.part] = Piece(piece.part, text, scores, piece.finish)
        choices = [self._choice(piece, "message") for piece in pieces]
        name = "chat.completion" if self.chat else "text_completion"
        return ENCODE(self._object(name, choices) | {"usage": self._usage()})

    async def events(self) -> AsyncIterator[bytes]:
        """The response of a request that streams, as server-sent events.

        An error in the midst of it is one more event, in the shape of all errors.
        """
        name = "chat.completion.chunk" if self.chat else "text_completion"
        try:
            async for piece in self.work:
                yield event(self._object(name, [self._choice(piece, "delta")]))
            if self.with_usage:
                yield event(self._object(name, []) | {"usage": self._usage()})
            yield format_sse_event(data_str="[DONE]")
        except HornbookError as error:
            known = error if isinstance(error, ApiError) else ApiError(500, str(error))
            yield event(known.as_dict())

    def _choice(self, piece: Piece, form: Literal["message", "delta"]) -> dict[str, Any]:
        choice = self.choices[piece.part]
        logprobs_of = choice.chat_logprobs if self.chat else choice.logprobs
        logprobs = logprobs_of(piece.scores) if choice.wants_logprobs else None
        text = choice.begin() + piece.text
        content = {form: {"role": "assistant", "content": text}} if self.chat else {"text": text}
        about = {"index": piece.part, "finish_reason": piece.finish, "logprobs": logprobs}
        return about | content

    def _object(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        about = {"id": self.id, "object": name, "created": self.created, "model": self.model}
        return about | {"choices": choices}

    def _usage(self) -> dict[str, int]:
        drawn = self.work.generated
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": drawn,
            "total_tokens": self.prompt_tokens + drawn,
        }


def event(found: dict[str, object]) -> bytes:
    """An object as a server-sent event."""
    return format_sse_event(data_str=ENCODE(found).decode().translate(LINE_ENDS))


async def complete(
    model: ServedModel,
    request: CompletionRequest | ChatRequest,
) -> Completion:
    """Accept a request: its generations wait or run when this returns.

    Raises: ApiError; UnknownCharacterError.
    """
    stops, echo, logprobs = request.stops(), False, None
    if isinstance(request, ChatRequest):
        prompt, ends = conversation(model, request.messages)
        prompts: list[str | list[int]] = [prompt]
        stops, limit = [*stops, *ends], request.max_completion_tokens or request.max_tokens or 500
        if request.top_logprobs is not None and not request.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
    else:
        prompts = prompts_of(request.prompt)
        echo, logprobs = bool(request.echo), request.logprobs
        limit = 16 if request.max_tokens is None else request.max_tokens
        if request.best_of not in (None, request.n or 1):
            raise ApiError(400, "best_of: expected the same number as n", param="best_of")
        if not limit and not echo:
            raise ApiError(400, "max_tokens: expected 1 or more, or echo", param="max_tokens")
    count = request.n or 1
    if count * len(prompts) > MOST_PARTS:
        raise ApiError(
            400,
            f"expected at most {MOST_PARTS} completions in all, got n = {count} for each of "
            f"{len(prompts)} prompts",
            param="n",
        )
    scored = echo and logprobs is not None
    seed = secrets.randbits(62) if request.seed is None else request.seed % 2**63
    settings = {
        "max_new_tokens": limit,
        "stop": stops,
        "top_logprobs": logprobs,
        "scored": scored,
        **request.sampling(),
    }
    parts: list[Part] = []
    choices: list[Choice] = []
    prompt_tokens = 0
    tokenizer = model.worker.engine.tokenizer
    for each in prompts:
        tokens = await tokens_of(model, each, request.unknown)
        prompt_tokens += len(tokens)
        shown = "" if not echo else each if isinstance(each, str) else tokenizer.decode(each)
        for _ in range(count):
            own = settings | {"seed": seed + len(parts)}
            parts.append(Part(len(parts), tokens, own))
            scores = tokens if scored else []
            choices.append(Choice(tokenizer, shown, logprobs is not None, scores))
    wants_usage = bool(request.stream_options and request.stream_options.include_usage)
    work = model.submit(parts)
    chat = isinstance(request, ChatRequest)
    return Completion(chat, model.name, work, choices, prompt_tokens, wants_usage)


def prompts_of(prompt: Prompt) -> list[str | list[int]]:
    """The prompts of a request: texts, or lists of token ids.

    Raises: ApiError when they are too long together.
    """
    if isinstance(prompt, str):
        return [prompt]
    found: list[str | list[int]] = []
    numbers = [each for each in prompt if isinstance(each, int)]
    found = [numbers] if numbers else [each for each in prompt if not isinstance(each, int)]
    if (length := sum(map(len, found))) > MOST_PROMPT:
        raise ApiError(
            400,
            f"prompt: expected at most {MOST_PROMPT:,} characters or tokens in all, got {length:,}",
            param="prompt",
        )
    return found


async def tokens_of(model: ServedModel, prompt: str | list[int], unknown: Unknown) -> list[int]:
    """The tokens of a prompt. Raises: ApiError; UnknownCharacterError."""
    if isinstance(prompt, str):
        return await model.encode(prompt, unknown)
    size = model.worker.engine.tokenizer.vocab_size
    if max(prompt) >= size:
        raise ApiError(400, f"expected token ids below {size}, got {max(prompt)}", param="prompt")
    return prompt
