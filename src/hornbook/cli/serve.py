"""`hornbook serve`."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hornbook.cli.terminal import Natural
from hornbook.errors import ConfigError
from hornbook.language import msg


def run(
    *runs: Path,
    host: str = "127.0.0.1",
    port: Natural = 8000,
    api_key: str | None = None,
    api_key_file: Path | None = None,
    allow_origin: tuple[str, ...] = (),
    allow_host: tuple[str, ...] = (),
    queue: Natural = 192,
    drain: float = 10.0,
    json_logs: Annotated[bool, Parameter(negative="")] = False,
    keep_weights: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Serve trained models to every program that speaks OpenAI's API, and to people by a page.

    Args:
        runs: The run folders; clients choose among them by the folders' names. A run that is being
            trained is served with its newest weights, and the page shows its loss.
        host: The address to listen at. Any but this machine's own needs a key.
        port: The port; 0 takes a free one.
        api_key: A key that clients must send. Others on this machine can see it in the list of
            processes: better give a file, or set HORNBOOK_API_KEY.
        api_key_file: A file of keys, one a line.
        allow_origin: A web page's origin, as https://chat.example.org, that may use the server;
            may be given several times.
        allow_host: A further name and port, as models.example.org:8000, by which clients reach the
            server; may be given several times.
        queue: How many generations may wait for their turn; further ones are refused.
        drain: How many seconds what is being generated may take when the server is stopped.
        json_logs: Write the log on stderr as JSON, one object a line.
        keep_weights: Send no model to browsers. The page then writes through the API, and looks
            inside nothing.
    """
    if not runs:
        raise ConfigError(
            msg("expected one or more run folders, as in hornbook serve runs/my-book-1")
        )
    if port > 65535:
        raise ConfigError(msg("--port {port}: expected at most 65535", port=port))
    if not 0 <= drain <= 3600:
        raise ConfigError(msg("--drain {drain}: expected from 0 to 3600 seconds", drain=drain))
    try:
        from hornbook.serve.server import Options, keys_in, serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            msg(
                "hornbook serve needs {name}; install it with pip install 'hornbook[serve]'",
                name=error.name,
            )
        ) from None
    keys = () if api_key is None else (api_key,)
    keys += () if api_key_file is None else keys_in(api_key_file)
    if from_environment := os.environ.get("HORNBOOK_API_KEY"):
        keys += (from_environment,)
    options = Options(
        host=host,
        port=port,
        api_keys=keys,
        allow_origins=allow_origin,
        allow_hosts=allow_host,
        queue=queue,
        drain=drain,
        json_logs=json_logs,
        keep_weights=keep_weights,
    )
    return serve(runs, options)
