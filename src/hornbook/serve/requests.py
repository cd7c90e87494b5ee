"""The requests of the API: their fields, types and limits, which the OpenAPI schema is made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_PROMPTS = 16
MOST_CHOICES = 16
MOST_TOKENS = 16_384
MOST_PROMPT = 200_000  # characters, or tokens
MOST_SEED = 2**62

Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=MOST_PROMPT)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[TokenId], Field(min_length=1, max_length=MOST_PROMPT)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
ListOfTokens = Annotated[list[Tokens], Field(min_length=1, max_length=MOST_PROMPTS)]
Prompt = Text | Tokens | Texts | ListOfTokens
Stop = Annotated[str, Field(min_length=1, max_length=500)]
Stops = Stop | Annotated[list[Stop], Field(max_length=4)] | None
Bias = Annotated[float, Field(ge=-100, le=100)]
Unknown = Literal["error", "skip", "replace"]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Request(BaseModel):
    """What all requests share.

    Numbers must be finite numbers. Unknown fields are ignored, since clients send many.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")

    model: Name


class StreamOptions(BaseModel):
    """What a stream ends with."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool | None = None


class Sampled(Request):
    """What decides how tokens are drawn."""

    temperature: Annotated[float, Field(ge=0, le=1000)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=1000)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Bias], Field(max_length=1000)
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-MOST_SEED, le=MOST_SEED)] | None = None
    stop: Stops = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    unknown: Unknown = Field(
        "error", description="what to do with characters of the prompt that the model has not seen"
    )

    def sampling(self) -> dict[str, object]:
        """The settings of SamplingConfig that the request names."""
        names = (
            *("temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
            *("presence_penalty", "frequency_penalty"),
        )
        named = {name: getattr(self, name) for name in names}
        found = {name: value for name, value in named.items() if value is not None}
        bias = {int(token): value for token, value in (self.logit_bias or {}).items()}
        return found | {"logit_bias": bias}

    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class CompletionRequest(Sampled):
    """POST /v1/completions."""

    prompt: Prompt = ""
    max_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Text


class ChatRequest(Sampled):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class ResponseRequest(Request):
    """POST /v1/responses: plain text in, plain text out."""

    input: Text
    instructions: Annotated[str, Field(max_length=0)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1000)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stream: bool | None = None

    def as_completion(self) -> CompletionRequest:
        """The completion that it asks for."""
        return CompletionRequest(
            model=self.model,
            prompt=self.input,
            max_tokens=self.max_output_tokens or 500,
            temperature=self.temperature,
            top_p=self.top_p,
        )


class EmbeddingRequest(Request):
    """POST /v1/embeddings."""

    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    unknown: Unknown = "error"


class TokenizeRequest(Request):
    """POST /tokenize."""

    prompt: Text
    unknown: Unknown = "error"


class DetokenizeRequest(Request):
    """POST /detokenize."""

    tokens: Annotated[list[TokenId], Field(max_length=MOST_PROMPT)]
