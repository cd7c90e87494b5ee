"""The routes of the server: OpenAI's API, what else programs need, and the page."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.sse import EventSourceResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from hornbook import __version__
from hornbook.errors import HornbookError, UnknownCharacterError
from hornbook.kernels import NativeUnavailableError
from hornbook.serve.completions import ENCODE, Completion, complete, prompts_of, tokens_of
from hornbook.serve.errors import ApiError
from hornbook.serve.metrics import Metrics
from hornbook.serve.page import STATIC, no_page, static
from hornbook.serve.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    ResponseRequest,
    TokenizeRequest,
)
from hornbook.serve.responses import PlainResponse
from hornbook.serve.served import Models
from hornbook.serve.training import progress

Found = TypeVar("Found")

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": what}
    for status, what in {
        400: "The request is not valid, or not one for this model.",
        404: "There is no such model.",
        429: "Too many generations wait; Retry-After says for how long to wait.",
        503: "The model is not ready.",
    }.items()
}


class Events(EventSourceResponse):
    """A stream of a completion's events; however it ends, so does the work for it."""

    def __init__(self, answer: Completion | PlainResponse) -> None:
        super().__init__(answer.events())
        self._work = answer.work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream until it, or the client, ends."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._work.close()


def create_app(
    models: Models,
    metrics: Metrics,
    report: Callable[[str], None],
    *,
    keep_weights: bool = False,
) -> FastAPI:
    """The server's application; `report` gets what goes wrong behind the scenes.

    With `keep_weights` the page does not get the models: it writes through the API.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        keeper = asyncio.create_task(models.keep_new(report))
        yield
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper

    app = FastAPI(
        title="hornbook",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # both pages load scripts from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    add_error_handlers(app)
    add_api(app, models)
    add_facts(app, models, metrics, keep_weights=keep_weights)
    return app


def add_error_handlers(app: FastAPI) -> None:
    """Have every error answered in OpenAI's shape."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: HttpRequest, error: RequestValidationError) -> Response:
        return described(error).response()

    @app.exception_handler(HTTPException)
    async def refused(_request: HttpRequest, error: HTTPException) -> Response:
        return ApiError(error.status_code, str(error.detail), headers=error.headers).response()

    @app.exception_handler(HornbookError)
    async def failed(_request: HttpRequest, error: HornbookError) -> Response:
        if isinstance(error, ApiError):
            return error.response()
        if isinstance(error, UnknownCharacterError):
            what = str(error).partition("\n")[0]
            hint = 'send "unknown": "skip" to leave such characters out, "replace" to replace them'
            return ApiError(400, f"{what.rstrip(':')}; {hint}", param="prompt").response()
        if isinstance(error, NativeUnavailableError):
            return ApiError(501, str(error)).response()
        return ApiError(500, str(error)).response()

    @app.exception_handler(Exception)
    async def broken(_request: HttpRequest, error: Exception) -> Response:
        return ApiError(500, f"a bug in hornbook: {type(error).__name__}").response()


def described(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a request, in one line."""
    first = error.errors()[0]
    detail = first.get("ctx", {}).get("error", "")
    if first["type"] == "json_invalid":
        return ApiError(400, f"expected a body in JSON: {detail} at character {first['loc'][-1]}")
    where = ".".join(str(each) for each in first["loc"] if each != "body")
    message = ": ".join(str(each) for each in (where, first["msg"], detail) if each)
    return ApiError(400, message[:500], param=where or None)


def add_api(app: FastAPI, models: Models) -> None:
    """The routes that run a model."""

    async def answer(request: CompletionRequest | ChatRequest, http: HttpRequest) -> Response:
        completion = await complete(models.find(request.model), request)
        return await answer_with(completion, http, stream=request.stream)

    @app.post("/v1/completions", responses=ERRORS)
    async def completions(request: CompletionRequest, http: HttpRequest) -> Response:
        """Continue a text."""
        return await answer(request, http)

    @app.post("/v1/chat/completions", responses=ERRORS)
    async def chat(request: ChatRequest, http: HttpRequest) -> Response:
        """Answer in a conversation: with models that were tuned to chat."""
        return await answer(request, http)

    @app.post("/v1/responses", responses=ERRORS)
    async def responses(request: ResponseRequest, http: HttpRequest) -> Response:
        """Continue a plain text, in the form of OpenAI's newer API."""
        completion = await complete(models.find(request.model), request.as_completion())
        return await answer_with(PlainResponse(completion, request), http, stream=request.stream)

    @app.post("/v1/embeddings", responses=ERRORS)
    async def embeddings(request: EmbeddingRequest) -> Response:
        """The mean of the last hidden states of each text."""
        model = models.find(request.model)
        data: list[dict[str, object]] = []
        tokens_read = 0
        for index, each in enumerate(prompts_of(request.input)):
            tokens = await tokens_of(model, each, request.unknown)
            tokens_read += len(tokens)
            mean_C = await model.embed(tokens)
            plain = request.encoding_format != "base64"
            value = mean_C.tolist() if plain else base64.b64encode(mean_C.tobytes()).decode()
            data.append({"object": "embedding", "index": index, "embedding": value})
        usage = {"prompt_tokens": tokens_read, "total_tokens": tokens_read}
        found = {"object": "list", "data": data, "model": model.name, "usage": usage}
        return Response(ENCODE(found), media_type="application/json")

    @app.post("/tokenize", responses=ERRORS)
    async def tokenize(request: TokenizeRequest) -> Response:
        """The token ids of a text."""
        model = models.find(request.model)
        tokens = await model.encode(request.prompt, request.unknown) if request.prompt else []
        return JSONResponse({"tokens": tokens, "count": len(tokens)})

    @app.post("/detokenize", responses=ERRORS)
    async def detokenize(request: DetokenizeRequest) -> Response:
        """The text of token ids."""
        model = models.find(request.model)
        if request.tokens:
            await tokens_of(model, request.tokens, "error")
        return JSONResponse({"prompt": model.worker.engine.tokenizer.decode(request.tokens)})


def add_facts(app: FastAPI, models: Models, metrics: Metrics, *, keep_weights: bool) -> None:
    """The routes that say how things are, and the page."""

    @app.get("/v1/models")
    async def list_models() -> Response:
        """The models that are served."""
        found = [about(model.name, model.created) for model in models]
        return JSONResponse({"object": "list", "data": found})

    @app.get("/v1/models/{model}", responses=ERRORS)
    async def one_model(model: str) -> Response:
        """One of them."""
        found = models.find(model)
        return JSONResponse(about(found.name, found.created))

    @app.get("/training/{model}", responses=ERRORS)
    async def training(model: str) -> Response:
        """The loss of a run so far, and whether it has ended: while it is trained, too."""
        found = models.find(model)
        rows = await asyncio.to_thread(progress, found.folder)
        return JSONResponse(rows | {"finished": found.finished, "weights": found.weights})

    @app.get("/page/{model}", responses=ERRORS)
    async def page(model: str) -> Response:
        """The model itself, as the page at / runs it in a browser."""
        found = models.find(model)
        if keep_weights:
            raise no_page(f"{found.name} stays on the server (--keep-weights)")
        return Response(await found.page(), media_type="application/json")

    @app.get("/health")
    async def health() -> Response:
        """Whether the server answers, and which models are ready."""
        ready = {model.name: bool(model.workers) for model in models}
        return JSONResponse({"status": "ok", "ready": all(ready.values())})

    @app.get("/metrics")
    async def prometheus() -> Response:
        """Figures for Prometheus."""
        return PlainTextResponse(metrics.text(models), media_type="text/plain; version=0.0.4")

    for path in STATIC:
        app.add_route(path, serve_static, include_in_schema=False)


async def serve_static(request: HttpRequest) -> Response:
    """A file of the page, as a route."""
    path = request.url.path
    return Response(await asyncio.to_thread(static, path), media_type=STATIC[path])


def about(name: str, created: int) -> dict[str, object]:
    """OpenAI's object of a model."""
    return {"id": name, "object": "model", "created": created, "owned_by": "hornbook"}


async def answer_with(
    found: Completion | PlainResponse, http: HttpRequest, *, stream: bool | None
) -> Response:
    """A completion as a stream, or whole."""
    if stream:
        return Events(found)
    try:
        whole = await unless_gone(http, found.whole())
    finally:
        found.work.close()
    return Response(whole, media_type="application/json")


async def unless_gone(http: HttpRequest, answer: Awaitable[Found]) -> Found:
    """What an awaitable gives, or an error as soon as the client has gone."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client has gone")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
