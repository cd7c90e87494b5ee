"""The loss of a run whose processes are killed again and again, beside the uninterrupted run.

    python -m benchmarks.killed          docs/killed.svg, and what was lost, as JSON

Four ranks of torchrun train a small GPT on Python's documentation; one of them, drawn at random, is
killed with SIGKILL at chosen steps.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks.table import ROOT

RANKS, STEPS, INTERVAL = 4, 300, 20
KILLED_AT = (70, 135, 250)
SETTINGS = {
    "block_size": 64, "n_embd": 64, "n_layer": 2, "n_head": 2, "batch_size": 16,
    "eval_interval": 50, "checkpoint_interval": INTERVAL, "sample_tokens": 3,
    "precision": "float32", "compile": "off", "eval_positions": 4096,
}  # fmt: skip


@dataclass
class Watched:
    """A run as it was seen from outside: when each step's row appeared, and the kills."""

    rows: list[tuple[float, int, float]] = field(default_factory=list)  # seconds, step, loss
    kills: list[tuple[float, int]] = field(default_factory=list)  # seconds, last step


def train(out: Path, kills: tuple[int, ...]) -> Watched:
    """Train by torchrun, killing a rank after each of these steps."""
    chosen = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    command = ["train", "python-docs", "--preset", "quick", "--steps", str(STEPS), *chosen]
    launch = ["--standalone", f"--nproc-per-node={RANKS}", "--max-restarts=20", "-m", "hornbook"]
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *launch, *command,
         "--no-page", "--quiet", "--json", "--out", str(out)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    chance, found, waiting = random.Random(1), Watched(), list(kills)
    started, seen = time.monotonic(), 0
    while process.poll() is None:
        rows = steps(out)
        now = time.monotonic() - started
        seen = min(seen, len(rows))  # a restarted run drops the rows after its checkpoint
        found.rows += [(now, row["step"], row["train_loss"]) for row in rows[seen:]]
        seen = len(rows)
        if waiting and rows and rows[-1]["step"] >= waiting[0]:
            waiting.pop(0)
            found.kills.append((now, rows[-1]["step"]))
            os.kill(pid_of(process, chance.randrange(RANKS)), signal.SIGKILL)
        time.sleep(0.05)
    if process.returncode or waiting:
        raise SystemExit(f"the run ended with status {process.returncode}")
    return found


def steps(out: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics so far."""
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def pid_of(process: "subprocess.Popen[bytes]", rank: int) -> int:
    """The process of one rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise SystemExit(f"no rank {rank} among {children}")


def draw(whole: Watched, killed: Watched, path: Path) -> None:
    """Both losses by the time since the command, each the mean of ten steps."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    for run, color, label in (
        (whole, "tab:gray", "uninterrupted"),
        (killed, "tab:blue", f"one of {RANKS} ranks killed {len(killed.kills)} times"),
    ):
        means = [
            (
                run.rows[i][0],
                sum(row[2] for row in run.rows[max(0, i - 9) : i + 1]) / min(10, i + 1),
            )
            for i in range(len(run.rows))
        ]
        axes.plot(*zip(*means, strict=True), color=color, label=label)
    for seconds, step in killed.kills:
        axes.axvline(seconds, color="tab:red", linestyle=":", linewidth=1)
        axes.annotate(f"SIGKILL\nafter step {step}", (seconds, axes.get_ylim()[1]), va="top")
    axes.set_xlabel("seconds since the command")
    axes.set_ylabel("training loss (nats per token)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    picture = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "hornbook"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.savefig(picture, format="svg", metadata={"Date": None})
    path.write_bytes(picture.getvalue())


def main() -> None:
    """Train both, draw them, and print what the kills cost."""
    with tempfile.TemporaryDirectory() as place:
        whole = train(Path(place) / "whole", ())
        killed = train(Path(place) / "killed", KILLED_AT)
        ends = [steps(Path(place) / name) for name in ("whole", "killed")]
        same = [row["train_loss"] for row in ends[0]] == [row["train_loss"] for row in ends[1]]
    draw(whole, killed, ROOT / "docs" / "killed.svg")
    again = sum(1 for a, b in zip(killed.rows, killed.rows[1:], strict=False) if b[1] <= a[1])
    found = {
        "steps": STEPS, "checkpoint_interval": INTERVAL, "kills": killed.kills, "restarts": again,
        "steps_taken_again": len(killed.rows) - STEPS, "every_loss_equal": same,
        "seconds": round(whole.rows[-1][0], 1), "seconds_killed": round(killed.rows[-1][0], 1),
    }  # fmt: skip
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
