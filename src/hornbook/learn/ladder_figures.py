"""The figures of a ladder that is trained: what each rung reached, and what its idea was worth."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hornbook.config import spec_of
from hornbook.eval.loss import losses
from hornbook.learn import ladder_chart as chart
from hornbook.learn.ladder import LARGE, Plan, ideas
from hornbook.plan import machine
from hornbook.runs.folder import RunFolder
from hornbook.runs.load import load
from hornbook.storage.disk import write_atomically
from hornbook.text.corpus import Corpus
from hornbook.text.dataset import prepare

# Losses of neighbouring characters are correlated; those of so many pieces of a text hardly are.
PIECES = 100

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A rung's validation loss as it was estimated on the way, mean over seeds."""

    steps: list[int]
    seconds: list[float]
    loss: list[float]


@dataclass(frozen=True)
class Rung:
    """What a rung reached. Losses in nats per character, exact over the validation text.

    `worth` is the step down from the rung it stands on, `noise` two standard errors of that step.
    """

    name: str
    idea: str
    parameters: int
    steps: int
    tokens: int
    seconds: float
    loss: float
    loss_by_seed: list[float]
    spread: float | None
    stands_on: str | None
    worth: float | None
    noise: float | None
    sample: str
    curve: Curve

    @property
    def within_noise(self) -> bool:
        """Whether another text or seed might well have shown no step down at all."""
        return self.worth is not None and self.noise is not None and abs(self.worth) < self.noise


@dataclass(frozen=True)
class Ladder:
    """The finished ladder in figures, with what counting reaches on the same text."""

    corpus: str
    folder: Path
    budget: str
    seeds: int
    counted: dict[str, float]
    rungs: list[Rung]

    def as_dict(self) -> dict[str, object]:
        """The figures as `ladder.json` and `--json` have them."""
        rungs = [asdict(rung) | {"within_noise": rung.within_noise} for rung in self.rungs]
        return asdict(self) | {"folder": str(self.folder), "rungs": rungs}


def measure(plan: Plan) -> Ladder:
    """The figures of a plan that is all trained; writes ladder.json, ladder.png and ladder.svg.

    Raises: CheckpointError when a run is missing or damaged.
    """
    rungs: list[Rung] = []
    losses_by_rung: dict[str, list[Floats]] = {}
    known = ideas()
    counted: dict[str, float] = {}
    for name in plan.rungs:
        runs = [each.folder for each in plan.climbs if each.rung == name]
        results = [folder.figures() for folder in runs]
        counted = results[0]["baselines_nats_per_char"]
        losses_by_rung[name] = [validation_losses(plan.corpus, folder) for folder in runs]
        loss_by_seed = [float(each.mean()) for each in losses_by_rung[name]]
        below = [
            rung.name for rung in rungs if rung.name != LARGE and not spec_of(rung.name).branch
        ]
        worth, noise = None, None
        if below:
            worth, noise = step_down(losses_by_rung[below[-1]], losses_by_rung[name])
        rungs.append(
            Rung(
                name=name,
                idea=known[name],
                parameters=results[0]["parameters"],
                steps=round(np.mean([result["steps"] for result in results])),
                tokens=round(np.mean([result["tokens"] for result in results])),
                seconds=float(np.mean([result["seconds"] for result in results])),
                loss=float(np.mean(loss_by_seed)),
                loss_by_seed=loss_by_seed,
                spread=2 * standard_error(loss_by_seed) if len(runs) > 1 else None,
                stands_on=below[-1] if below else None,
                worth=worth,
                noise=noise,
                sample=sample_of(runs[0]),
                curve=mean_curve(runs),
            )
        )
    seeds = len(plan.climbs) // len(rungs)
    ladder = Ladder(plan.corpus.name, plan.folder, plan.budget, seeds, counted, rungs)
    write_atomically(
        plan.folder / "ladder.json",
        json.dumps(ladder.as_dict(), indent=1, ensure_ascii=False).encode(),
    )
    chart.draw(ladder)
    return ladder


def validation_losses(corpus: Corpus, folder: RunFolder) -> Floats:
    """The best weights' loss at every character of the validation text, in order."""
    trained = load(folder.path, device=machine.choose_device().value)
    tokens = prepare(corpus, trained.config.data, trained.tokenizer).validation
    return losses(trained.model, tokens, block_size=trained.config.model.context_size)


def sample_of(folder: RunFolder) -> str:
    """What a run's model generated, without its prompt."""
    figures = folder.figures()
    if "sample" in figures:
        return figures["sample"]["text"]
    return folder.sample.read_text(encoding="utf-8")  # of a version whose samples had no prompt


def step_down(upper: Sequence[Floats], lower: Sequence[Floats]) -> tuple[float, float]:
    """How much lower a rung's loss is than that of the one below, and two standard errors of that.

    `upper` and `lower` hold one array a seed, over the same characters. The error has two sources:
    the validation text, by the paired differences over its pieces; and, from two seeds on, the
    training, by the spread over seeds.
    """
    gap = np.mean(upper, axis=0) - np.mean(lower, axis=0)
    pieces = [piece.mean() for piece in np.array_split(gap, min(PIECES, len(gap)))]
    errors = [standard_error(pieces)]
    if len(upper) > 1:
        errors += [standard_error([each.mean() for each in seeds]) for seeds in (upper, lower)]
    return float(gap.mean()), 2 * float(np.linalg.norm(errors))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of at least two values."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def mean_curve(runs: Sequence[RunFolder]) -> Curve:
    """The validation losses that runs logged, averaged over them: evaluation by evaluation.

    In equal times some take a few steps more, and may have one more evaluation.
    """
    logged = [[row for row in run.metrics_rows() if row["val_loss"] is not None] for run in runs]
    shortest = min(map(len, logged))
    columns = list(zip(*([*rows[: shortest - 1], rows[-1]] for rows in logged), strict=True))
    return Curve(
        steps=[round(np.mean([row["step"] for row in rows])) for rows in columns],
        seconds=[float(np.mean([row["seconds"] for row in rows])) for rows in columns],
        loss=[float(np.mean([row["val_loss"] for row in rows])) for rows in columns],
    )
