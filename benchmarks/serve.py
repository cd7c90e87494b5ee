"""How fast `hornbook serve` is, compared with its own Engine, `hornbook sample` and llama.cpp.

The models have random weights, which take the time of trained ones. The server is a process of its
own, as is llama.cpp's, which serves the same model as a GGUF file. All are measured in turn, so
that a change of the machine's speed meets all of them.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from benchmarks.load import health_watched, streams
from benchmarks.sample import RECIPES, shape_of, trained_run
from benchmarks.table import ROOT, Row
from hornbook.infer.engine import Engine
from hornbook.interop.request import Request
from hornbook.runs.engine import open_engine
from hornbook.runs.load import load

CROWD = 64
RUNS = 3
# Tokens a text by model: in a crowd, and alone.
LENGTHS = {"0.8M": (400, 4000), "10.65M": (100, 500)}
GGUF = {"0.8M": "f32", "10.65M": "bf16"}  # as hornbook's decoder holds them
LOAD, ROUNDS = 200, 10
FIRST_TOKENS = 20
# llama.cpp's default samplers are not ours.
PLAIN = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "ignore_eos": True}


def measure(*, short: bool = False) -> list[Row]:
    """Tokens a second of a crowd and of one stream, seconds to the first token, and the load."""
    found = []
    for name, recipe in list(RECIPES.items())[: 1 if short else 2]:
        many, one = (20, 100) if short else LENGTHS[name]
        with tempfile.TemporaryDirectory() as place:
            run = trained_run(shape_of(recipe), Path(place))
            with server(run) as (port, pid), llamacpp(run, GGUF[name], many, one) as peer:
                ports = {"ours": port} | ({} if peer is None else {"peer": peer})
                found += speeds(name, run, ports, (many, one), 1 if short else RUNS)
                if name == "0.8M":
                    found += load_rows(port, pid, rounds=3 if short else ROUNDS)
    return found


def speeds(
    name: str, run: Path, ports: dict[str, int], lengths: tuple[int, int], runs: int
) -> list[Row]:
    """The rows of one model."""
    many, one = lengths
    engine = open_engine(run, rows=CROWD)
    crowd: dict[str, list[float]] = {"engine": [], "ours": [], "peer": []}
    alone: dict[str, list[float]] = {"sample": [], "ours": [], "peer": []}
    first: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(runs):
        crowd["engine"].append(engine_speed(engine, many))
        alone["sample"].append(sample_speed(run, one))
        for who, where in ports.items():
            crowd[who].append(crowd_speed(where, run.name, many))
            alone[who].append(stream_speed(where, run.name, one))
    for _ in range(FIRST_TOKENS if runs == RUNS else 2):
        for who, where in ports.items():
            time.sleep(0.05)  # until the server is idle
            (answer,) = streams(where, requests(run.name, 1, 4))
            first[who].append(answer.first)
    why = "" if "peer" in ports else "llama.cpp: xllamacpp is not installed"

    def row(
        what: str, unit: str, times: dict[str, list[float]], limit: str = "", limit_name: str = ""
    ) -> Row:
        median = {who: statistics.median(values) for who, values in times.items() if values}
        note = f"{median['ours'] / median[limit]:.2f} of it" if limit else "goal 0.05"
        return Row(
            f"{name}, {what}", unit, median["ours"], median.get("peer"), "llama.cpp's server",
            median.get(limit), limit_name, "; ".join(filter(None, (note, why))),
        )  # fmt: skip

    return [
        row(f"{CROWD} streams", "tokens/s", crowd, "engine", f"the Engine, {CROWD} rows"),
        row("one stream", "tokens/s", alone, "sample", "hornbook sample"),
        row("first token of an idle server", "s", first),
    ]


def load_rows(port: int, pid: int, rounds: int) -> list[Row]:
    """200 streams at once, round after round: /health beside them, and the server's memory."""
    statuses: list[int] = []
    memory: list[float] = []
    with health_watched(port) as seconds:
        for round_ in range(rounds):
            found = streams(port, requests("run", LOAD, 100, first_seed=LOAD * round_))
            bad = [each for each in found if each.status != 200 or not each.finished]
            if [each for each in bad if each.status not in (429, 503) or not each.retry_after]:
                raise SystemExit("a stream neither ended right nor was told to try again")
            statuses += [each.status for each in found]
            memory.append(resident_mib(pid))
    p99 = statistics.quantiles(seconds, n=100)[-1]
    ended = f"{statuses.count(200)} of {len(statuses)} streams ended right, the others got 429"
    rows = [
        Row(f"{LOAD} streams at once: p99 of /health", "s", p99, ceiling=1.0, ceiling_name="goal",
            note=f"{len(seconds)} requests; {ended}")
    ]  # fmt: skip
    if memory[0]:
        rows.append(
            Row(f"memory after {rounds} rounds of {LOAD} streams", "MiB", memory[-1],
                ceiling=memory[1], ceiling_name="after two rounds")
        )  # fmt: skip
    return rows


def requests(
    model: str, count: int, tokens: int, first_seed: int = 0
) -> Sequence[dict[str, object]]:
    """Completions of short prompts."""
    return [
        {"model": model, "prompt": "To be", "seed": first_seed + number, "max_tokens": tokens}
        | PLAIN
        for number in range(count)
    ]


def engine_speed(engine: Engine, tokens: int) -> float:
    """Tokens a second of the Engine with all rows."""
    started = time.perf_counter()
    made = engine.streams("To be", seeds=range(CROWD), max_new_tokens=tokens)
    while not all(each.finished for each in made):
        engine.step()
    return CROWD * tokens / (time.perf_counter() - started)


def crowd_speed(port: int, model: str, tokens: int) -> float:
    """Tokens a second of a server with that many streams, from the first request to the end."""
    found = streams(port, requests(model, CROWD, tokens))
    return sum(each.tokens for each in found) / max(each.last for each in found)


def stream_speed(port: int, model: str, tokens: int) -> float:
    """Tokens a second of one stream, from its first text to its last."""
    (found,) = streams(port, requests(model, 1, tokens))
    return (found.tokens - 1) / (found.last - found.first)


def sample_speed(run: Path, tokens: int) -> float:
    """Tokens a second of `hornbook sample`, from its first character to its last."""
    command = [sys.executable, "-m", "hornbook", "sample", str(run), "--prompt", "To be"]
    with subprocess.Popen(
        [*command, "--max-new-tokens", str(tokens)], stdout=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        first = last = 0.0
        while os.read(process.stdout.fileno(), 1 << 16):
            last = time.perf_counter()
            first = first or last
    if process.returncode or last <= first:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return (tokens - 1) / (last - first)


def environment() -> dict[str, str]:
    """What a process needs to find this repository."""
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}


@contextmanager
def server(run: Path) -> Iterator[tuple[int, int]]:
    """`hornbook serve` of a run on a free port: the port, and its process."""
    command = [sys.executable, "-m", "hornbook", "serve", str(run), "--port", "0"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log, env=environment())
        try:
            yield port_in(log.fileno(), process), process.pid
        finally:
            process.terminate()
            process.wait(30)


def port_in(log: int, process: "subprocess.Popen[bytes]") -> int:
    """The port that a server's log names."""
    written = b""
    while process.poll() is None:
        written = os.pread(log, 4096, 0)
        if found := re.search(rb"http://127.0.0.1:(\d+)/", written):
            return int(found[1])
        time.sleep(0.01)
    raise SystemExit(f"the server did not start: {written.decode(errors='replace')}")


@contextmanager
def llamacpp(run: Path, weights: str, many: int, one: int) -> Iterator[int | None]:
    """llama.cpp's server of a run on a free port; None where xllamacpp is not installed."""
    if find_spec("xllamacpp") is None:
        yield None
        return
    request = Request("gguf", weights=weights)
    (name, data), *_ = request.module.files(load(run), request).items()
    (run / name).write_bytes(data)
    context = max(many, -(-one // CROWD)) + 64
    command = [sys.executable, "-m", "benchmarks.peers.llamacpp", str(run / name)]
    with subprocess.Popen(
        [*command, str(CROWD), str(context)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().strip().rpartition(b":")[2])
        finally:
            process.stdin.close()


def resident_mib(pid: int) -> float:
    """A process's resident memory; 0 where Linux's /proc is not there."""
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0
