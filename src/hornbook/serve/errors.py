"""Errors of the API, in OpenAI's shape: what was expected, what came, what to do."""

import json
from collections.abc import Mapping

from starlette.responses import Response

from hornbook.errors import HornbookError

# OpenAI's `type` for a status; others below 500 are requests that were not valid.
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
TYPES |= {429: "rate_limit_error", 503: "overloaded_error"}


class ApiError(HornbookError):
    """A request that is not answered. `param` names the field at fault, `code` is for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def as_dict(self) -> dict[str, object]:
        """The error as OpenAI's API writes it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": str(self),
                "type": TYPES.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        """The error as a response; ASCII, since a message may quote a lone surrogate."""
        body = json.dumps(self.as_dict()).encode("ascii")
        return Response(body, self.status, self.headers, "application/json")


def busy(message: str, seconds: float) -> ApiError:
    """The error of a full queue."""
    retry = str(max(1, min(60, round(seconds))))
    return ApiError(429, message, code="queue_full", headers={"Retry-After": retry})


def not_ready(message: str) -> ApiError:
    """The error of something that is not there yet, or no longer."""
    return ApiError(503, message, code="not_ready", headers={"Retry-After": "2"})
