"""Two ranks on two cores against one process, at nanoGPT's larger shape.

In one run: rank 0 takes a step alone on one thread, one alone on two threads, and one together with
rank 1, each on one thread, in turns; the fastest of each counts. While rank 0 works alone, rank 1
waits for a message and takes no core.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.peers.nanogpt import GPU_RECIPE
from benchmarks.table import ROOT, Row
from benchmarks.train import VOCABULARY, settings
from hornbook.config import Config
from hornbook.parallel import ALONE, Job, Ranks, join
from hornbook.training import Trainer, begin
from hornbook.training.loop import next_step
from hornbook.training.ranks import attend, lead

RANKS = 2


def measure(*, short: bool = False) -> list[Row]:
    """Tokens a second of two ranks and of one process, and the share of linear scaling."""
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={RANKS}", "-m", "benchmarks.ranks", *["short"] * short,
        ],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    name, linear = found["name"], RANKS * found["alone"]
    two = Row(f"{name}: 2 ranks", "tokens/s", found["together"], found["threads"])
    two = two._replace(peer_name="1 process, 2 threads", ceiling=linear, ceiling_name="linear")
    return [
        Row(f"{name}: 1 process, 1 thread", "tokens/s", found["alone"]),
        two,
        Row(f"{name}: of linear scaling", "share", found["together"] / linear),
    ]


def shape(*, short: bool) -> Config:
    """nanoGPT's larger shape with half of its batch; a small one in the short form."""
    recipe = replace(GPU_RECIPE, batch_size=32, dropout=0.0)
    if short:
        recipe = replace(recipe, n_layer=1, n_embd=64, n_head=2, block_size=64, batch_size=4)
    return settings(recipe).override(steps=1000, threads=1, sample_tokens=0)


def speeds(trainer: Trainer, ranks: Ranks, *, runs: int) -> dict[str, float]:
    """Tokens a second of each way to take a step, in turns; the first of each sets up."""
    ways = {"alone": (ALONE, 1), "threads": (ALONE, RANKS), "together": (ranks, 1)}
    best = dict.fromkeys(ways, float("inf"))
    for run in range(runs + 1):
        for name, (those, threads) in ways.items():
            trainer.ranks = those
            trainer.state.optimizers.share(those)
            torch.set_num_threads(threads)
            started = time.perf_counter()
            next_step(trainer)
            if run:
                best[name] = min(best[name], time.perf_counter() - started)
    trainer.ranks = ranks
    return {name: trainer.tokens_per_step / seconds for name, seconds in best.items()}


def main(*, short: bool) -> None:
    """One rank's part; rank 0 prints what it measured."""
    config = shape(short=short)
    with join(Job.of_environment(), config) as ranks, tempfile.TemporaryDirectory() as place:
        if ranks.rank:
            sys.exit(attend(ranks))
        text = Path(place) / "text.txt"
        letters = random.Random(0)
        drawn = letters.choices([chr(33 + n) for n in range(VOCABULARY)], k=20_000)
        text.write_text("".join(drawn), encoding="utf-8")
        trainer = begin(config.override(corpus=str(text)), out=Path(place) / "run")
        with trainer.lock:
            lead(trainer, ranks)
            found = speeds(trainer, ranks, runs=1 if short else 4)
        parameters = f"{trainer.state.model.parameter_count / 1e6:.2f} million parameters"
        sys.stdout.write(json.dumps({"name": parameters, **found}) + "\n")


if __name__ == "__main__":
    main(short=sys.argv[1:] == ["short"])
