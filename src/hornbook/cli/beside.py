"""What runs beside a training: the server, as a process of its own, and trackers."""

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


def check(port: int | None, tracker: str | None) -> None:
    """Check that server and tracker, where wanted, can begin, before anything is trained.

    Raises: ConfigError.
    """
    if port is not None:
        if port > 65535:
            raise ConfigError(msg("--port {port}: expected at most 65535", port=port))
        for name in NEEDED:
            check_installed("--serve", name, "serve")
    if tracker is not None:
        check_installed(f"--track {tracker}", tracker, tracker)


def check_installed(option: str, package: str, extra: str) -> None:
    """Check that an option's package is installed, without importing it. Raises: ConfigError."""
    if find_spec(package) is None:
        raise ConfigError(
            msg(
                "{option} needs {name}; install it with pip install 'hornbook[{extra}]'",
                option=option, name=package, extra=extra,
            )
        )  # fmt: skip


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
            raise ConfigError(msg("--serve: {said}", said=found["message"]))
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
