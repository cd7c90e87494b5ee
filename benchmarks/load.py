"""Many streams at once from a server of this machine, read by one thread that hardly computes.

A client that parsed events as they come would take processor time from the server, which runs on
the same cores. So bytes are kept until every stream has ended.
"""

import http.client
import json
import selectors
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """One response: its bytes, and when they came, in seconds since the streams began."""

    body: bytearray = field(default_factory=bytearray)
    first: float = 0.0  # when the first text came
    last: float = 0.0

    @property
    def status(self) -> int:
        """The HTTP status; 0 for a connection that was closed without a response."""
        return int(self.body.split(b" ", 2)[1]) if self.body else 0

    @property
    def retry_after(self) -> bytes | None:
        """The header Retry-After."""
        head = bytes(self.body.partition(b"\r\n\r\n")[0])
        lines = (line.partition(b":") for line in head.split(b"\r\n"))
        return next((value for name, _, value in lines if name.lower() == b"retry-after"), None)

    def events(self) -> list[Any]:
        """The objects that were sent."""
        lines = bytes(self.body).split(b"\n")
        data = (line[6:].strip() for line in lines if line.startswith(b"data: "))
        return [json.loads(each) for each in data if each != b"[DONE]"]

    @property
    def finished(self) -> bool:
        """Whether the stream came to its proper end."""
        return b"data: [DONE]" in self.body

    @property
    def tokens(self) -> int:
        """How many tokens were generated."""
        usages = [each["usage"] for each in self.events() if each.get("usage")]
        return usages[-1]["completion_tokens"]


def streams(port: int, requests: Sequence[dict[str, object]], seconds: float = 600) -> list[Answer]:
    """The answers to completions that are requested all at once, each on its own connection.

    Raises: TimeoutError when they take longer than `seconds`.
    """
    answers = [Answer() for _ in requests]
    with selectors.DefaultSelector() as selector:
        started = time.perf_counter()
        for request, answer in zip(requests, answers, strict=True):
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            connection.sendall(post(port, request))
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ, answer)
        while selector.get_map():
            ready = selector.select(1)
            now = time.perf_counter() - started
            if now > seconds:
                raise TimeoutError(f"{len(selector.get_map())} streams did not end")
            for key, _ in ready:
                read(key, selector, now)
    return answers


def read(key: selectors.SelectorKey, selector: selectors.BaseSelector, now: float) -> None:
    """Take what a connection has received."""
    connection, answer = key.fileobj, key.data
    assert isinstance(connection, socket.socket)
    try:
        data = connection.recv(1 << 16)
    except ConnectionResetError:
        data = b""
    if not data:
        selector.unregister(connection)
        connection.close()
        return
    answer.body += data
    answer.last = now
    if not answer.first and b'"text":"' in answer.body.replace(b'"text":""', b""):
        answer.first = now


def post(port: int, request: dict[str, object]) -> bytes:
    """A request for a stream, as bytes."""
    more = {"stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(request | more).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@contextmanager
def health_watched(port: int) -> Iterator[list[float]]:
    """The seconds that /health took, asked for again and again until the block ends."""
    found: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            started = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/health")
            if connection.getresponse().status != 200:
                raise SystemExit("/health did not answer 200")
            connection.close()
            found.append(time.perf_counter() - started)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
