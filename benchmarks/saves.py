"""What saving costs a training: one save, and the share of the time of steps.

    python -m benchmarks.saves            what one save costs, for four sizes (a minute)
    python -m benchmarks.saves share      the share of a training's time, by one and two processes
    python -m benchmarks.saves short      the same of a few small steps, to see that it works

A share is that of 10.65 million parameters with a checkpoint every 20 steps of 2,048 tokens. Steps
without a save and with one take turns in one process, and the fastest of each counts.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.table import ROOT
from hornbook.config import Config
from hornbook.parallel import Job, Ranks, join
from hornbook.training import Trainer, begin
from hornbook.training.loop import next_step
from hornbook.training.ranks import attend, lead
from hornbook.training.saves import Saves
from hornbook.training.state import finish_saves, finite, save_last, whole_state

SHAPES = {
    "default": {},
    "0.80 million": {"n_layer": 4, "n_embd": 128, "n_head": 4},
    "10.65 million": {"n_layer": 6, "n_embd": 384, "n_head": 6, "block_size": 256},
    "133 million": {"n_layer": 27, "n_embd": 640, "n_head": 10, "block_size": 256},
}
SHARED = "10.65 million"
INTERVAL, BLOCKS, ROUNDS = 20, 8, 3
WAYS = {"1 process": (1, "none"), "2 ranks, replicated": (2, "ddp"), "2 ranks, FSDP2": (2, "fsdp")}


def begun(place: Path, shape: dict[str, int], **settings: object) -> Trainer:
    """A run of a random text, before its first step."""
    text = place / "text.txt"
    drawn = random.Random(0).choices([chr(33 + n) for n in range(65)], k=20_000)
    text.write_text("".join(drawn), encoding="utf-8")
    config = Config().override(
        corpus=str(text), steps=1000, sample_tokens=0, batch_size=BLOCKS, device="cpu",
        **shape, **settings,
    )  # fmt: skip
    return begin(config, out=place / "run")


def cost(name: str) -> None:
    """Print what each part of one save takes: the fastest of three."""
    with tempfile.TemporaryDirectory(dir=".") as place:
        trainer = begun(Path(place), SHAPES[name])
        state = trainer.state
        state.optimizers.begin()
        best: dict[str, float] = {}
        cpu: dict[str, float] = {}

        def timed(part: str, started: float) -> None:
            now, used = time.perf_counter(), time.process_time()
            best[part] = min(best.get(part, float("inf")), now - started)
            cpu[part] = min(cpu.get(part, float("inf")), used - busy)

        with trainer.lock:
            for step in range(1, 4):
                state.step = step
                tensors = whole_state(trainer)
                started, busy = time.perf_counter(), time.process_time()
                finite(trainer, tensors)
                timed("check", started)
                copies = Saves(background=True)
                started, busy = time.perf_counter(), time.process_time()
                for part in tensors.values():
                    copies.copy(part)
                timed("copy", started)
                trainer.saves = Saves()
                started, busy = time.perf_counter(), time.process_time()
                save_last(trainer)
                timed("save", started)
                trainer.saves = Saves(background=True)
                state.step += 10
                started, busy = time.perf_counter(), time.process_time()
                save_last(trainer)
                timed("background", started)
                finish_saves(trainer)
        size = sum(each.nbytes for part in tensors.values() for each in part.values())
        parts = ("save", "background", "check", "copy")
        each = ", ".join(
            f"{part} {1e3 * best[part]:,.1f} ({1e3 * cpu[part]:,.1f})" for part in parts
        )
        show(
            f"{state.model.parameter_count / 1e6:.2f} million parameters, {size / 2**20:,.0f} MiB; "
            f"ms, and ms of processor time: {each}"
        )


def windows(trainer: Trainer, *, short: bool) -> dict[str, float]:
    """Seconds of INTERVAL steps without a save and with one before them, and those of its wait."""
    best = {"without": float("inf"), "with": float("inf"), "wait": float("inf")}
    interval, rounds = (3, 1) if short else (INTERVAL, ROUNDS)
    next_step(trainer)
    for _ in range(rounds):
        for way in ("without", "with"):
            started = time.perf_counter()
            if way == "with":
                save_last(trainer)
                best["wait"] = min(best["wait"], time.perf_counter() - started)
            for _ in range(interval):
                trainer.saves.check()
                next_step(trainer)
            best[way] = min(best[way], time.perf_counter() - started)
            finish_saves(trainer)
    return {**best, "step": best["without"] / interval}


def measured(ranks: Ranks, parallel: str, async_save: str, *, short: bool) -> dict[str, float]:
    """Rank 0's figures of one run."""
    with tempfile.TemporaryDirectory(dir=".") as place:
        settings = {"parallel": parallel, "async_save": async_save, "compile": "off"}
        settings |= {"threads": max(1, len(os.sched_getaffinity(0)) // ranks.world)}
        trainer = begun(Path(place), SHAPES["default" if short else SHARED], **settings)
        with trainer.lock:
            lead(trainer, ranks)
            return windows(trainer, short=short)


def main(parallel: str, async_save: str, length: str) -> None:
    """One process's part; rank 0 prints what it measured."""
    config = Config().override(parallel=parallel, device="cpu", batch_size=BLOCKS)
    with join(Job.of_environment(), config) as ranks:
        if ranks.rank:
            sys.exit(attend(ranks))
        show(json.dumps(measured(ranks, parallel, async_save, short=length == "short")))


def share(way: str, async_save: str, length: str) -> None:
    """Print the share of the time of steps that saves take."""
    ranks, parallel = WAYS[way]
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    command = [sys.executable, "-m", *(launcher if ranks > 1 else []), "benchmarks.saves"]
    done = subprocess.run(
        [*command, parallel, async_save, length], stdout=subprocess.PIPE, text=True, check=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    waiting, slower = found["wait"] / found["with"], 1 - found["without"] / found["with"]
    show(
        f"{way}, async_save = {async_save}: a step takes {1e3 * found['step']:,.0f} ms, and one "
        f"waits {1e3 * found['wait']:,.0f} ms for a save: {waiting:.2%} of the time from save to "
        f"save; with all that it slows down {slower:.2%}"
    )


def show(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) == 4:
        main(*sys.argv[1:])
    elif sys.argv[1:]:
        for way in WAYS:
            for async_save in ("off", "on"):
                share(way, async_save, sys.argv[1])
    else:
        for name in SHAPES:
            cost(name)
