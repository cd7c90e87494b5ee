"""Commands that tests run as processes.

Importing torch takes two seconds of a core. So a command that imports it is forked from a server
which has done so already, unless it is given what a process reads only when it starts. It is a
process like any other: its folder, environment, streams and status are its own.
"""

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

from caches import cache_in

SECONDS = 300
# The commands that import torch; the others start as users start them.
FORKED = (
    "train",
    "eval",
    "look",
    "report",
    "page",
    "trace",
    "export",
    "ladder",
    "doctor",
    "bench",
    "verify",
)
# Python, torch and OpenMP read these as they start.
READ_AT_START = ("PYTHON", "LANG", "LC_", "LD_", "OMP_", "GOMP_", "ATEN_", "ONEDNN_")


def environment(cwd: Path, **more: str) -> dict[str, str]:
    """This process's, without hornbook's own variables, and a cache of the test's own."""
    inherited = {key: value for key, value in os.environ.items() if "HORNBOOK" not in key}
    return inherited | {"HORNBOOK_CACHE_DIR": cache_in(cwd)} | more


def hornbook(
    *arguments: str | Path, cwd: Path, stdin: bytes = b"", **more: str
) -> "subprocess.CompletedProcess[bytes]":
    """`hornbook` with these arguments, and with variables of its own."""
    words, variables = [*map(str, arguments)], environment(cwd, **more)
    if words and words[0] in FORKED and not any(each.startswith(READ_AT_START) for each in more):
        return forked(words, cwd, stdin, variables)
    return subprocess.run(
        [sys.executable, "-m", "hornbook", *words],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env=variables,
        timeout=SECONDS,
        check=False,
    )


def forked(
    words: list[str], cwd: Path, stdin: bytes, variables: dict[str, str]
) -> "subprocess.CompletedProcess[bytes]":
    """A command as a fork of the server, with pipes for its streams."""
    connection, process = server()
    (its_in, our_in), (our_out, its_out), (our_err, its_err) = (os.pipe() for _ in range(3))
    request = json.dumps({"words": words, "cwd": str(cwd), "variables": variables})
    socket.send_fds(connection, [request.encode()], [its_in, its_out, its_err])
    for descriptor in (its_in, its_out, its_err):
        os.close(descriptor)

    def write() -> None:
        with suppress(BrokenPipeError), open(our_in, "wb") as pipe:  # noqa: PTH123
            pipe.write(stdin)

    def read(descriptor: int) -> bytes:
        with open(descriptor, "rb") as pipe:
            return pipe.read()

    with ThreadPoolExecutor(3) as threads:
        threads.submit(write)
        out, err = threads.map(read, (our_out, our_err))
    status = connection.recv(64)
    assert status, process.communicate()
    return subprocess.CompletedProcess(words, int(status), out, err)


@cache
def server() -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """This process's server of forks, which ends when its connection does."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pipe = subprocess.PIPE  # so that its forks have pipes for streams, as a command has here
    with its:
        process = subprocess.Popen(
            [sys.executable, __file__, str(its.fileno())],
            pass_fds=[its.fileno()], stdin=pipe, stdout=pipe, stderr=pipe,
        )  # fmt: skip
    atexit.register(process.wait)
    atexit.register(ours.close)  # the last one registered is called first
    return ours, process


def serve(connection: socket.socket) -> None:
    """Fork a process for each request, one after the other; in it, return after its command."""
    import hornbook.cli
    import hornbook.learn.ladder
    import hornbook.lens
    import hornbook.page
    import hornbook.report
    import hornbook.training  # noqa: F401

    # A command's time counts from the import of this module, which is the command's own.
    assert "hornbook.cli.terminal" not in sys.modules
    gc.freeze()  # else a fork's first collection would copy all of it
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if not request:
            os._exit(0)
        if os.fork() == 0:
            become(**json.loads(request), descriptors=descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(str(os.waitstatus_to_exitcode(os.wait()[1])).encode())


def become(words: list[str], cwd: str, variables: dict[str, str], descriptors: list[int]) -> None:
    """Be the process of one command."""
    from hornbook.cli import main

    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    signal.alarm(SECONDS)
    main(words)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
