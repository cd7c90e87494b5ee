"""Runs the server: its socket, its signals, its log, and its end."""

import asyncio
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from hornbook.errors import ConfigError, display_path, for_terminal, reason
from hornbook.language import msg, translated
from hornbook.serve.app import create_app
from hornbook.serve.connection import Connection
from hornbook.serve.guard import Guard, Rules, Seen
from hornbook.serve.metrics import Metrics
from hornbook.serve.served import Models

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY_BYTES = 4096
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Options:
    """How to serve."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    queue: int = 192
    drain: float = 10.0
    json_logs: bool = False
    keep_weights: bool = False


class Log:
    """Writes lines on stderr: of requests, and of what happens to the server."""

    def __init__(self, *, as_json: bool, metrics: Metrics) -> None:
        self._as_json = as_json
        self._metrics = metrics

    def request(self, seen: Seen) -> None:
        """A line for a request: no query, no header and no text, since they may hold secrets."""
        self._metrics.responses[seen.status] += 1
        facts = asdict(seen) | {"seconds": round(seen.seconds, 4)}
        line = (
            f"{seen.client} {seen.method} {seen.path} {seen.status or '-'} "
            f"{seen.sent_bytes} bytes {1000 * seen.seconds:.1f} ms"
        )
        self._write("request", line, facts)

    def event(self, name: str, message: str, **facts: object) -> None:
        """A line for something else."""
        self._write(name, message, {"message": message} | facts)

    def _write(self, name: str, line: str, facts: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._as_json:
            line = json.dumps({"time": now, "event": name} | facts)
        else:
            line = f"{now} {for_terminal(translated(line))}"
        with suppress(OSError):  # a log that nobody reads any more stops no request
            sys.stderr.write(line.replace("\n", " ") + "\n")
            sys.stderr.flush()


class LogHandler(logging.Handler):
    """Hands uvicorn's own messages to our log, a line each: no traceback reaches a user."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        message = record.getMessage().strip()
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError):
            return  # the end of the drain cut it off
        if error is not None:
            message = f"{message}: {type(error).__name__}: {reason(error)}"
        self._log.event("server", message)


class Server(uvicorn.Server):
    """uvicorn's server with our signals: the first one drains, the second one ends at once."""

    def __init__(self, config: uvicorn.Config, log: Log) -> None:
        super().__init__(config)
        self._log = log
        self.forced_by: int | None = None

    @contextmanager
    def capture_signals(self) -> "Iterator[None]":
        """Take SIGINT and SIGTERM while the server runs."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _stop(self, number: int) -> None:
        if self.should_exit:
            self.force_exit, self.forced_by = True, number
            for task in self.server_state.tasks:
                task.cancel()
            return
        self._log.event("stopping", msg("stopping: what is being generated is finished first"))
        self.should_exit = True


def serve(runs: Sequence[str | os.PathLike[str]], options: Options) -> int:
    """Serve runs until a signal comes; the exit status.

    Raises: ConfigError; CheckpointError when a run is missing or damaged.
    """
    check_address(options)
    listening = listen(options.host, options.port)
    try:
        return asyncio.run(run(runs, options, listening))
    finally:
        listening.close()


async def run(
    runs: Sequence[str | os.PathLike[str]], options: Options, listening: socket.socket
) -> int:
    """Open the models and serve them on a socket that listens."""
    metrics = Metrics()
    log = Log(as_json=options.json_logs, metrics=metrics)
    models = Models(runs, options.queue)
    try:
        await models.open()
        port = listening.getsockname()[1]
        config = configure(models, options, port, log, metrics)
        logger = logging.getLogger("uvicorn.error")
        logger.addHandler(LogHandler(log))
        logger.propagate = False
        host = f"[{options.host}]" if ":" in options.host else options.host
        names = ", ".join(model.name for model in models)
        url = f"http://{host}:{port}/"
        message = msg("serving {names} at {url} (API: {url}v1)", names=names, url=url)
        log.event("listening", message, url=url)
        server = Server(config, log)
        await server.serve(sockets=[listening])
    finally:
        await models.close()
    return 0 if server.forced_by is None else 128 + server.forced_by


def configure(
    models: Models,
    options: Options,
    port: int,
    log: Log,
    metrics: Metrics,
    *,
    connection: type[Connection] = Connection,
) -> uvicorn.Config:
    """uvicorn's settings for serving these models."""
    app = create_app(
        models,
        metrics,
        lambda message: log.event("model", message),
        keep_weights=options.keep_weights,
    )
    return uvicorn.Config(
        Guard(app, rules_of(options, port), log.request),
        http=connection,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(options.drain)),
    )


def rules_of(options: Options, port: int) -> Rules:
    """Who is let in, by the options."""
    own = (*LOOPBACK, f"[{options.host}]" if ":" in options.host else options.host)
    hosts = {f"{name.lower()}:{port}" for name in own}
    if port == 80:
        hosts |= {name.lower() for name in own}
    hosts |= {name.lower() for name in options.allow_hosts}
    keys = tuple(key.encode() for key in options.api_keys)
    return Rules(frozenset(hosts), frozenset(options.allow_origins), keys)


def check_address(options: Options) -> None:
    """Check that no address but loopback is served without a key. Raises: ConfigError."""
    for key in options.api_keys:
        if not key.isascii() or not key.isprintable() or " " in key or len(key) < 8:
            raise ConfigError(
                msg("an API key needs 8 or more printable ASCII characters without spaces")
            )
    if options.api_keys or is_loopback(options.host):
        return
    raise ConfigError(
        msg(
            "--host {host} can be reached from other machines: give a key by --api-key-file or "
            "HORNBOOK_API_KEY",
            host=options.host,
        )
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises: ConfigError when the address cannot be had."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind)
        # Else a port that was served a moment ago stays in use for a minute.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(1024)  # who connects while the models are opened waits
    except OSError as error:
        raise ConfigError(
            msg(
                "cannot serve at {host}:{port}: {why}; --port 0 takes a free port",
                host=host,
                port=port,
                why=reason(error),
            )
        ) from None
    return made


def keys_in(path: Path) -> tuple[str, ...]:
    """The keys of a file, one a line. Raises: ConfigError."""
    from hornbook.storage.files import read_regular

    try:
        lines = read_regular(path, KEY_BYTES).decode().split()
    except (OSError, ValueError) as error:
        raise ConfigError(
            msg("--api-key-file {path}: {why}", path=display_path(path), why=reason(error))
        ) from None
    if not lines:
        raise ConfigError(
            msg("--api-key-file {path}: expected a key, found none", path=display_path(path))
        )
    return tuple(lines)
