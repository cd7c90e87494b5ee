"""`hornbook train --serve`: the server beside a training, as a process of its own."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from hornbook.cli.console import log
from hornbook.errors import ConfigError
from hornbook.language import msg

NEEDED = ("fastapi", "uvicorn")


def check(port: int) -> None:
    """Check that a server can be started, before anything is trained. Raises: ConfigError."""
    if port > 65535:
        raise ConfigError(msg("--port {port}: expected at most 65535", port=port))
    for name in NEEDED:
        if find_spec(name) is None:
            raise ConfigError(
                msg(
                    "--serve needs {name}; install it with pip install 'hornbook[serve]'", name=name
                )
            )


@contextmanager
def served(run: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    """Serve a run until the end of the block. Raises: ConfigError where that cannot begin."""
    with subprocess.Popen(  # noqa: S603 - our own module, and a folder that was just made
        [sys.executable, "-m", "hornbook.serve.beside", str(run), str(port)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C is for the training, which saves first; the server ends with the pipe.
        start_new_session=True,
    ) as process:
        assert process.stdin  # noqa: S101 - for the type
        assert process.stderr  # noqa: S101
        with process.stdin:
            log(msg("served at {address}", address=address(process.stderr)))
            threading.Thread(target=read_on, args=(process.stderr,), daemon=True).start()
            yield process


def wait(process: "subprocess.Popen[str]") -> None:
    """Leave a server to whoever uses it, until Ctrl-C."""
    log(msg("the run is served until Ctrl-C"))
    with suppress(KeyboardInterrupt):
        process.wait()


def address(lines: IO[str]) -> str:
    """The address that the server's first line names. Raises: ConfigError with its error."""
    said = []
    for line in lines:
        said.append(line.strip())
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if found["event"] == "listening":
            return found["url"]
        if found["event"] == "failed":
            raise ConfigError(f"--serve: {found['message']}")
    raise ConfigError(msg("--serve: the server did not start: {said}", said=" ".join(said)[-200:]))


def read_on(lines: IO[str]) -> None:
    """Read the log to its end, or its pipe would fill; what goes wrong is shown."""
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if found["event"] in ("model", "server"):
            log(msg("server: {message}", message=found["message"]))
