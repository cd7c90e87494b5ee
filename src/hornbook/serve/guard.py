"""The guard in front of the API: which requests get in, how large and slow they may be.

A browser lets any web page send requests to this machine. So the Host must be exactly one of ours,
which stops a foreign name that was pointed at this machine; a foreign Origin is refused; and POST
takes JSON only, which a form on another page cannot send. Without `--allow-origin` there are no
CORS headers at all.
"""

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hornbook.serve.errors import ApiError

MOST_BODY_BYTES = 1 << 20
# What may be had without a key: whether the server is there, and the page's own files.
OPEN_PATHS = frozenset({"/", "/health", "/page.css", "/page.js"})
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' "
    "data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": CONTENT_SECURITY_POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cache-control": b"no-store",
}


@dataclass(frozen=True)
class Rules:
    """Who is let in. `keys` is empty where no key is needed."""

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    keys: tuple[bytes, ...] = field(default=(), repr=False)

    def same_origins(self) -> set[str]:
        """The origins of pages that this server itself has sent."""
        return {f"{scheme}://{host}" for scheme in ("http", "https") for host in self.hosts}


@dataclass
class Seen:
    """What the access log says of a request."""

    method: str
    path: str
    client: str
    status: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0


class Guard:
    """ASGI middleware that checks a request against the rules, reads its body, and logs it."""

    body_seconds = 30.0

    def __init__(self, app: ASGIApp, rules: Rules, log: Callable[[Seen], None]) -> None:
        self._app = app
        self._rules = rules
        self._log = log
        self._same_origins = rules.same_origins()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client") or ("-", 0)
        seen = Seen(scope["method"], scope["path"], str(client[0]))
        started = time.monotonic()
        extra: dict[bytes, bytes] = dict(SECURITY_HEADERS)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                kept = [pair for pair in message["headers"] if pair[0].lower() not in extra]
                message = {**message, "headers": [*kept, *extra.items()]}
            else:
                seen.sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            headers = headers_of(scope)
            origin = self._origin(scope, headers)
            if origin:
                extra |= {b"access-control-allow-origin": origin, b"vary": b"Origin"}
                if scope["method"] == "OPTIONS":
                    extra[b"access-control-allow-methods"] = b"GET, POST"
                    extra[b"access-control-allow-headers"] = b"authorization, content-type"
                    await send_guarded(start(204))
                    await send_guarded({"type": "http.response.body", "body": b""})
                    return
            self._check_key(scope, headers)
            self._check_form(scope, headers)
            body = await read_body(headers, receive, self.body_seconds)
            await self._app(scope, replay(body, receive), send_guarded)
        except ApiError as error:
            if not seen.status:
                await error.response()(scope, receive, send_guarded)
        finally:
            seen.seconds = time.monotonic() - started
            self._log(seen)

    def _origin(self, scope: Scope, headers: Mapping[bytes, bytes]) -> bytes | None:
        """The allowed foreign origin that a request comes from, if any.

        Raises: ApiError for a Host or an Origin that is not allowed.
        """
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if host not in self._rules.hosts:
            raise ApiError(
                403,
                f"Host {host[:100]!r} is not this server's; expected one of "
                f"{', '.join(sorted(self._rules.hosts))}; --allow-host adds one",
            )
        if b"origin" in headers:
            origin = headers[b"origin"].decode("latin-1")
            if origin in self._rules.origins:
                return headers[b"origin"]
            if origin.lower() in self._same_origins and origin.lower().endswith(f"//{host}"):
                return None
            raise ApiError(
                403, f"pages of {origin[:100]!r} may not use this server; --allow-origin adds one"
            )
        # A browser says so where it leaves the Origin out, as for an image on a foreign page.
        # Opening our own page by a link is allowed.
        foreign = headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")
        opened = headers.get(b"sec-fetch-mode") == b"navigate" and scope["path"] == "/"
        if foreign and not opened:
            raise ApiError(403, "pages of other sites may not use this server")
        return None

    def _check_key(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        if not self._rules.keys or scope["path"] in OPEN_PATHS:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        # Every key is compared, each in constant time, so that nothing can be told from the time.
        same = [hmac.compare_digest(given.strip(), key) for key in self._rules.keys]
        if scheme.lower() != b"bearer" or not any(same):
            raise ApiError(
                401,
                "expected an API key: the header Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    @staticmethod
    def _check_form(scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        # The pattern of a route ends with `$`, which would take a line end after the path.
        if "\n" in scope["path"]:
            raise ApiError(404, "there is no such path")
        if scope["method"] != "POST":
            return
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise ApiError(415, "expected the header Content-Type: application/json")


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """A request's headers; of those that come twice none is believed.

    Raises: ApiError for a second Host, Origin, Authorization or Content-Type.
    """
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in found and name in (b"host", b"origin", b"authorization", b"content-type"):
            raise ApiError(400, f"expected one {name.decode('latin-1')} header, got two")
        found[name] = value
    return found


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, seconds: float) -> bytes:
    """The whole body of a request.

    Raises: ApiError when it is too large, whatever its Content-Length, or comes too slowly.
    """
    too_large = ApiError(
        413,
        f"expected a body of at most {MOST_BODY_BYTES:,} bytes",
        headers={"Connection": "close"},
    )
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length[:20]) > MOST_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ApiError(400, "the client has gone")
                body += message.get("body", b"")
                if len(body) > MOST_BODY_BYTES:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise ApiError(
            408,
            f"expected the whole body within {seconds:g} seconds",
            headers={"Connection": "close"},
        ) from None


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that has been read already, and then what comes after it."""
    pending = [body]

    async def again() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again


def start(status: int) -> Message:
    """The start of a response without headers of its own."""
    return {"type": "http.response.start", "status": status, "headers": []}
