"""Runs by several real processes, for the tests of this folder."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from commands import environment

SMALL = {
    "block_size": 16, "n_embd": 32, "n_layer": 2, "n_head": 2, "batch_size": 8, "eval_interval": 25,
    "checkpoint_interval": 10, "sample_tokens": 3, "precision": "float32", "compile": "off",
}  # fmt: skip


def arguments(text: Path, out: Path, steps: int, **settings: object) -> list[str]:
    """`hornbook train` with a small GPT."""
    chosen = [f"--set={name}={value}" for name, value in {**SMALL, **settings}.items()]
    fixed = ["--preset", "quick", "--steps", str(steps), "--no-page", "--quiet", "--json"]
    return ["train", str(text), *fixed, "--out", str(out), *chosen]


def torchrun(
    ranks: int, command: list[str], cwd: Path, patience: int = 10
) -> "subprocess.Popen[str]":
    """Start so many processes on one command; they are started again once.

    A process that was stopped does not take SIGTERM: `patience` is how many seconds it gets.
    """
    launched = ["--standalone", f"--nproc-per-node={ranks}", "--max-restarts=1"]
    launched += [f"--shutdown-timeout={patience}", "-m", "hornbook"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *launched, *command],
        cwd=cwd,
        env=environment(cwd),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Status, stdout and stderr, in a time that no hang fits into."""
    try:
        out, err = process.communicate(timeout=110)
    finally:
        process.kill()
    return process.returncode, out, err


def forked(
    ranks: int, command: list[str], cwd: Path, **more: str
) -> "subprocess.CompletedProcess[str]":
    """One command by so many processes, without torchrun."""
    return subprocess.run(
        [sys.executable, str(Path(__file__).parent / "forked.py"), str(ranks), *command],
        cwd=cwd,
        env=environment(cwd, **more),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def in_turn(commands: list[tuple[int, list[str]]], cwd: Path) -> list[tuple[str, str]]:
    """Several commands, each by so many processes; what each wrote to stdout and stderr."""
    subprocess.run(
        [sys.executable, str(Path(__file__).parent / "forked.py"), "--each"],
        cwd=cwd,
        env=environment(cwd),
        input=json.dumps(commands),
        text=True,
        timeout=300,
        check=True,
    )
    return [
        ((cwd / f"{number}.out").read_text(), (cwd / f"{number}.err").read_text())
        for number in range(len(commands))
    ]


def together(ranks: int, command: list[str], cwd: Path) -> dict[str, Any]:
    """The result of a run by so many ranks."""
    made = forked(ranks, command, cwd)
    assert made.returncode == 0, made.stderr
    found: dict[str, Any] = json.loads(made.stdout)  # one object: rank 0 alone prints
    return found


def pid_of(process: "subprocess.Popen[str]", rank: int) -> int:
    """The process of one rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_text().split("\0")
        if f"RANK={rank}" in variables:
            return int(child)
    raise AssertionError(f"no rank {rank} among {children}")


def rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for_step(process: "subprocess.Popen[str]", run: Path, step: int) -> None:
    while len(rows(run)) < step:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def weights_hash(run: Path) -> str:
    (path,) = run.glob("checkpoints/step-*/model.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def failures(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "failures.jsonl").read_text().splitlines()]
