"""The ladder: every rung between a bigram and a GPT, trained alike, and what each idea was worth.

    runs/ladder-shakespeare/   bigram-1337/ average-1337/ ...  ladder.json ladder.png ladder.svg
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hornbook import checkpoint, training
from hornbook.config import Config, load_config, preset
from hornbook.data import prepare
from hornbook.errors import ConfigError
from hornbook.evaluation import losses
from hornbook.result import conclude
from hornbook.run import RunFolder, load
from hornbook.text import Corpus, read_corpus

# From the bottom to the top. `gpt` and `lecture` both stand on `layernorm`.
IDEAS = {
    "bigram": "a table of logits",
    "average": "the mean of the past",
    "head": "self-attention, positions",
    "heads": "several heads",
    "feedforward": "an MLP",
    "residual": "blocks, residual paths",
    "layernorm": "normalisation",
    "gpt": "today's block, optimizer",
    "lecture": "scale, dropout",
}
ON_LAYERNORM = ("gpt", "lecture")

FULL_STEPS, QUICK_STEPS = 5000, 1000
EVALUATIONS = 10
# An equal share of time must allow the large rung this much, or its place in the table says nothing
# but that it is slow.
LECTURE_MINUTES, LECTURE_STEPS = 5, 500

Floats = NDArray[np.float64]


def settings(name: str) -> Config:
    """A rung's settings: the lecture's own; `gpt` as large as the lecture's small models.

    The table learns at the rate of the lecture's script, 1e-2: at the notebook's 1e-3 it is still
    0.08 nats from there after 5,000 steps (tiny Shakespeare: 2.567 against 2.491).
    """
    if name == "bigram":
        return preset("bigram").override(learning_rate=1e-2)
    if name == "gpt":
        like = preset("layernorm")
        return preset("laptop").override(
            block_size=like.model.block_size,
            n_layer=like.model.n_layer,
            n_head=like.model.n_head,
            n_embd=like.model.n_embd,
            batch_size=like.train.batch_size,
            precision="float32",
            compile="off",
        )
    return preset(name)


@dataclass(frozen=True)
class Climb:
    """One run of the ladder: a rung and a seed."""

    rung: str
    config: Config
    folder: RunFolder


@dataclass(frozen=True)
class Plan:
    """All that is to be trained, in order, and what the user should know of it."""

    folder: Path
    corpus: Corpus
    budget: str
    climbs: list[Climb]
    notes: list[str]

    @property
    def rungs(self) -> list[str]:
        """The rungs from the bottom to the top."""
        return list(dict.fromkeys(climb.rung for climb in self.climbs))


def plan(
    corpus: str = "python-docs",
    *,
    rungs: Sequence[str] = (),
    steps: int | None = None,
    minutes: float | None = None,
    quick: bool = False,
    seeds: int = 1,
    out: str | Path | None = None,
) -> Plan:
    """What to train: every rung (or those named), for equal steps, or for equal time.

    `minutes` is the training time of the whole ladder, for each seed: a few steps of each rung are
    timed, and its share of the time gives its steps. The large rung `lecture` takes part when
    named, or when its share of the time is worth it.
    Raises: ConfigError, DataError.
    """
    unknown = [name for name in rungs if name not in IDEAS]
    if unknown:
        raise ConfigError(f"--rungs {unknown[0]}: expected some of {', '.join(IDEAS)}")
    if sum((steps is not None, minutes is not None, quick)) > 1:
        raise ConfigError("--steps, --minutes and --quick each set the budget; give one of them")
    for name, value in (("steps", steps), ("minutes", minutes), ("seeds", seeds)):
        if value is not None and not 0 < value < 1e9:
            raise ConfigError(f"--{name} {value}: expected more than 0")
    read = read_corpus(corpus)
    kind = "-quick" if quick else f"-{minutes:g}min" if minutes else ""
    folder = Path(out) if out else Path("runs") / f"ladder-{read.name}{kind}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}") from None
    reference = training.lasting_reference(corpus, read, RunFolder(folder))
    chosen = {
        name: settings(name).override(corpus=reference)
        for name in IDEAS
        if name in rungs or (not rungs and name != "lecture")
    }
    notes: list[str] = []
    if minutes:
        budget = f"equal time: {60 * minutes / len(chosen):,.0f} s of training a rung"
        step_counts = equal_time(chosen, minutes, folder)
    else:
        each = steps or (QUICK_STEPS if quick else FULL_STEPS)
        budget = f"equal steps: {each:,} a rung"
        step_counts = dict.fromkeys(chosen, each)
    if "lecture" not in chosen and not rungs:
        notes.append(
            "lecture, the large model, is left out: it is for a GPU, or for patience; "
            "--rungs bigram,...,lecture names it"
        )
    climbs = [
        Climb(
            name,
            config.override(
                seed=config.train.seed + number,
                steps=step_counts[name],
                eval_interval=max(1, step_counts[name] // EVALUATIONS),
                checkpoint_interval=max(1, step_counts[name] // EVALUATIONS),
            ),
            RunFolder(folder / f"{name}-{config.train.seed + number}"),
        )
        for number in range(seeds)
        for name, config in chosen.items()
    ]
    return Plan(folder, read, budget, climbs, notes)
