"""A server in a thread of the test, with requests to it, and one in a process of its own."""

import asyncio
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from commands import environment

from hornbook.serve.connection import Connection
from hornbook.serve.metrics import Metrics
from hornbook.serve.served import Models
from hornbook.serve.server import Log, Options, configure, listen

KEY = "a-key-of-the-tests"


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return self.json["error"]["message"]


class Client:
    """Sends requests to a port of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """A request with these headers, and no more than http.client needs."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: object, **headers: str) -> Answer:
        sent = {"Content_Type": "application/json"} | headers
        return self.ask("POST", path, json.dumps(body).encode(), **sent)

    def complete(self, **request: object) -> Answer:
        return self.post("/v1/completions", {"model": "gpt", "prompt": "the ", "seed": 3} | request)

    def raw(self, data: bytes = b"") -> socket.socket:
        """A connection that has sent some bytes."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        made.sendall(data)
        return made

    def stream(self, **request: object) -> socket.socket:
        """A connection on which a completion is streaming."""
        asked = {"model": "gpt", "prompt": "the ", "stream": True, "max_tokens": 16_000} | request
        return self.raw(post_bytes(self.port, json.dumps(asked).encode()))

    def figure(self, name: str) -> float:
        """The sum of a figure of /metrics."""
        text = self.get("/metrics").body.decode()
        found = re.findall(rf"^hornbook_{name}(?:{{.*}})? (.*)$", text, flags=re.MULTILINE)
        return sum(map(float, found))


def post_bytes(port: int, body: bytes, path: str = "/v1/completions") -> bytes:
    """A POST request with JSON, as bytes."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def events(body: bytes) -> list[Any]:
    """The objects of a stream of events, up to its [DONE]."""
    data = [each.removeprefix(b"data: ") for each in body.split(b"\n\n") if each]
    assert data.pop() == b"[DONE]"
    return [json.loads(each) for each in data]


class Local(Client):
    """A server in a thread of this process."""

    def __init__(self, port: int, models: Models, server: uvicorn.Server) -> None:
        super().__init__(port)
        self.models = models
        self.server = server


@contextmanager
def serving(
    runs: Sequence[Path],
    options: Options | None = None,
    connection: type[Connection] = Connection,
) -> Iterator[Local]:
    """Serve runs until the end of the block."""
    options = options or Options()
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    ready: list[Local] = []
    opened = threading.Event()

    async def run() -> None:
        metrics = Metrics()
        models = Models(runs, options.queue)
        try:
            await models.open()
            log = Log(as_json=True, metrics=metrics)
            config = configure(models, options, port, log, metrics, connection=connection)
            server = uvicorn.Server(config)
            ready.append(Local(port, models, server))
            opened.set()
            await server.serve(sockets=[listening])
        finally:
            opened.set()
            await models.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    opened.wait(60)
    try:
        yield ready[0]
    finally:
        if ready:
            ready[0].server.should_exit = True
        thread.join(60)
        listening.close()
    assert not thread.is_alive()


class Process(Client):
    """`hornbook serve` in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, log: list[str]) -> None:
        super().__init__(port)
        self.process = process
        self.log = log  # lines of stderr

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def process(runs: Sequence[Path], cwd: Path, *options: str, **variables: str) -> Iterator[Process]:
    """Start `hornbook serve` on a free port, and end it with the block."""
    command = [sys.executable, "-m", "hornbook", "serve", *map(str, runs)]
    with subprocess.Popen(
        [*command, "--port", "0", "--json-logs", *options],
        cwd=cwd,
        env=environment(cwd, **variables),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as made:
        assert made.stderr is not None
        first = made.stderr.readline()
        log = [first]
        reader = threading.Thread(target=lambda: log.extend(made.stderr))
        reader.start()
        try:
            port = int(json.loads(first)["url"].rstrip("/").rpartition(":")[2])
            yield Process(made, port, log)
        finally:
            if made.poll() is None:
                made.kill()
            made.wait(30)
            reader.join(30)
