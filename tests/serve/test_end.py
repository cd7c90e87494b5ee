"""How the server starts and ends, as a process."""

import base64
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from commands import environment
from serving import Client, process
from small import TEXT

from hornbook.storage.lock import Lock

T = TypeVar("T")


def refused(cwd: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A `hornbook serve` that does not start: one line on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "hornbook", "serve", *arguments],
        cwd=cwd,
        env=environment(cwd, **variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""
    *warnings, _ = done.stderr.splitlines()
    assert all(line.startswith("warning: ") for line in warnings), done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_sigterm_finishes_what_is_streaming_and_leaves_0(runs: list[Path], tmp_path: Path) -> None:
    with (
        process(runs[:1], tmp_path, "--drain", "20") as server,
        server.stream(max_tokens=9000) as stream,
        server.raw(),  # an idle connection holds nothing up
    ):
        received = stream.recv(1000)
        server.process.send_signal(signal.SIGTERM)
        while piece := stream.recv(65_536):
            received += piece
        assert received.endswith(b"0\r\n\r\n")
        assert b"data: [DONE]" in received
        assert b'"finish_reason":"length"' in received
        assert server.process.wait(20) == 0
    logged = [json.loads(line) for line in server.log]
    assert [each["event"] for each in logged] == ["listening", "stopping", "request"]
    assert logged[-1]["status"] == 200
    assert logged[-1]["path"] == "/v1/completions"


def test_the_drain_has_an_end_and_a_second_signal_is_obeyed_at_once(
    runs: list[Path], tmp_path: Path
) -> None:
    endless = {"max_tokens": 16_000, "n": 16, "logprobs": 20}
    with (
        process(runs[:1], tmp_path, "--drain", "1") as server,
        server.stream(**endless) as stream,
    ):
        stream.recv(1000)
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10
    assert not [line for line in server.log if "Traceback" in line]
    with (
        process(runs[:1], tmp_path, "--drain", "60") as server,
        server.stream(**endless) as stream,
    ):
        stream.recv(1000)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        started = time.monotonic()
        assert server.stop() == 128 + signal.SIGTERM
        assert time.monotonic() - started < 5


def test_a_browsers_model_does_not_bring_torch_into_the_server(
    runs: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(runs[0], tmp_path / "removed")
    with process([runs[0], tmp_path / "removed"], tmp_path) as server:
        (tmp_path / "json.py").write_text("raise SystemExit('from the working directory')")
        assert server.get("/page.css").status == 200
        made = server.get("/page/gpt")
        assert made.json["about"]["served"] == len(base64.b64decode(made.json["numbers"])) > 1000
        shutil.rmtree(tmp_path / "removed" / "checkpoints")
        gone = server.get("/page/removed")
        assert gone.status == 500
        assert "removed" in gone.message
        maps = Path(f"/proc/{server.process.pid}/maps")
        if maps.exists():
            assert "libtorch" not in maps.read_text(encoding="utf-8")


def test_what_cannot_be_served_is_told_in_a_line(runs: list[Path], tmp_path: Path) -> None:
    run = str(runs[0])
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = refused(tmp_path, run, "--port", port)
    assert done.returncode == 2
    assert "in use" in done.stderr
    assert "--port 0" in done.stderr
    done = refused(tmp_path, "no-such-run", "--port", "0")
    assert (done.returncode, "not a run folder" in done.stderr) == (1, True)
    shutil.copytree(runs[0], tmp_path / "damaged")
    for weights in (tmp_path / "damaged" / "checkpoints").glob("*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-9])
    done = refused(tmp_path, "damaged", "--port", "0")
    assert (done.returncode, "no intact" in done.stderr) == (1, True)
    done = refused(tmp_path, run, run, "--port", "0")
    assert (done.returncode, "same name" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "run folders"),
        (("RUN", "--host", "0.0.0.0"), "key"),
        (("RUN", "--api-key", "short"), "8 or more"),
        (("RUN", "--api-key-file", "missing"), "missing"),
        (("RUN", "--port", "99999"), "65535"),
        (("RUN", "--drain", "-1"), "seconds"),
    ],
)
def test_wrong_options_are_told_in_a_line(
    runs: list[Path], tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    named = [str(runs[0]) if each == "RUN" else each for each in arguments]
    done = refused(tmp_path, *named)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_key_comes_from_a_file_or_a_variable(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("first-key-of-two\nsecond-key-of-two\n")
    with process(
        runs[:1], tmp_path, "--api-key-file", "keys", HORNBOOK_API_KEY="a-third-key"
    ) as server:
        for key in ("first-key-of-two", "second-key-of-two", "a-third-key"):
            assert server.get("/v1/models", Authorization=f"Bearer {key}").status == 200
        assert server.get("/v1/models").status == 401
        assert server.stop() == 0
    assert not [line for line in server.log if "key-of-two" in line or "third-key" in line]


@contextmanager
def training(cwd: Path, steps: int) -> Iterator[tuple["subprocess.Popen[str]", Client]]:
    """`hornbook train --serve` of a small model, and a client of its server."""
    text = cwd / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    small = ("block_size=16", "n_embd=32", "batch_size=4", "eval_interval=4", "compile=off",
             "checkpoint_interval=4", "precision=float32")  # fmt: skip
    command = [sys.executable, "-m", "hornbook", "train", str(text), "--preset", "quick", "--steps",
               str(steps), *(word for each in small for word in ("--set", each)),
               "--out", "run", "--no-page", "--serve", "--port", "0"]  # fmt: skip
    with (
        (cwd / "log").open("w") as log,
        subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(cwd),
            stderr=log,
            stdout=log,
        ) as made,
    ):
        try:
            yield made, Client(int(waited(lambda: port_in(cwd / "log"))))
        finally:
            if made.poll() is None:
                made.kill()


def port_in(log: Path) -> str:
    """The port that a log names, once it does."""
    found = re.search(r"served at http://127.0.0.1:(\d+)/", log.read_text(encoding="utf-8"))
    return found[1] if found else ""


def waited(found: Callable[[], T]) -> T:
    """What a function gives, once that is true."""
    end = time.monotonic() + 120
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return value


def gone(client: Client) -> bool:
    """Whether nobody serves there."""
    try:
        client.raw().close()
    except OSError:
        return True
    return False


def test_a_training_serves_its_run_and_ctrl_c_saves_first(tmp_path: Path) -> None:
    with training(tmp_path, steps=1_000_000) as (process, client):
        waited(lambda: client.get("/health").json["ready"])
        asked = {"model": "run", "prompt": "to be", "max_tokens": 5}
        assert client.post("/v1/completions", asked).status == 200
        assert client.get("/training/run").json["finished"] is False
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 128 + signal.SIGINT
        assert "saved; go on with" in (tmp_path / "log").read_text(encoding="utf-8")
        waited(lambda: gone(client))


def test_a_trained_run_is_served_until_ctrl_c(tmp_path: Path) -> None:
    with training(tmp_path, steps=8) as (process, client):
        waited(lambda: client.get("/training/run").json["finished"])
        waited(lambda: "until Ctrl-C" in (tmp_path / "log").read_text(encoding="utf-8"))
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
        waited(lambda: gone(client))


def test_no_server_is_left_over_when_its_training_is_killed(
    runs: list[Path], tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "hornbook.serve.beside", str(runs[0]), "0"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as beside:
        assert beside.stdin is not None
        assert beside.stderr is not None
        assert json.loads(beside.stderr.readline())["event"] == "listening"
        # Both pipes close with the training's process, and a log that nobody reads is no error.
        beside.stderr.close()
        beside.stdin.close()
        # 120: Python could not flush its standard error. A signal that comes before the server
        # takes signals ends it at once.
        assert beside.wait(30) in (0, 120, -signal.SIGTERM)


def test_a_run_in_training_is_served_with_its_newest_weights(
    runs: list[Path], tmp_path: Path
) -> None:
    run = tmp_path / "growing"
    shutil.copytree(runs[0], run)
    (run / "result.json").unlink()
    (run / "checkpoints").rename(tmp_path / "later")
    with Lock(run), process([run], tmp_path) as server:
        assert server.get("/health").json["ready"] is False
        waiting = server.post("/v1/completions", {"model": "growing", "prompt": "a"})
        assert waiting.status == 503
        assert "Retry-After".lower() in waiting.headers
        assert server.get("/training/growing").json["finished"] is False
        (tmp_path / "later").rename(run / "checkpoints")
        end = time.monotonic() + 20
        while not server.get("/health").json["ready"]:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert server.post("/v1/completions", {"model": "growing", "prompt": "a"}).status == 200
        assert server.get("/training/growing").json["rows"]
        assert server.stop() == 0
