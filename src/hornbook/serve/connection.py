"""uvicorn's connection, with limits of time that uvicorn does not have.

uvicorn waits for ever for the headers of a request, and for a client that reads nothing of what it
is sent. Each such connection would hold a descriptor, and a slow reader its request's memory too.
"""

from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


class Connection(H11Protocol):
    """A connection that is closed when its client is too slow, or one too many."""

    header_seconds = 10.0
    # A client that takes nothing for so long is gone, or might as well be.
    write_seconds = 30.0
    most_connections = 500

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._waiting: TimerHandle | None = None
        self._writing: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.write(FULL)
            transport.close()
        else:
            self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the limits."""
        self._waiting = cancelled(self._waiting)
        self._writing = cancelled(self._writing)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take some bytes: with the last of its headers a request has begun."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._waiting = cancelled(self._waiting)

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it has come already."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._wait_for_request()

    def pause_writing(self) -> None:
        """Begin to wait for a client that reads more slowly than it is written to."""
        super().pause_writing()
        self._writing = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting: it has read."""
        super().resume_writing()
        self._writing = cancelled(self._writing)

    def _wait_for_request(self) -> None:
        cancelled(self._waiting)
        self._waiting = self.loop.call_later(self.header_seconds, self.transport.abort)


def cancelled(timer: TimerHandle | None) -> None:
    """Cancel a timer that may not be there."""
    if timer is not None:
        timer.cancel()
