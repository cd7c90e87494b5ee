"""The ladder: every rung between a bigram and a GPT, trained alike, and what each idea was worth.

runs/ladder-shakespeare/   bigram-1337/ average-1337/ ...  ladder.json ladder.png ladder.svg
"""

import json
import shutil
import warnings
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hornbook import report, training
from hornbook.config import Config, load_config, preset
from hornbook.errors import ConfigError
from hornbook.eval.loss import losses
from hornbook.plan import machine
from hornbook.plan.budget import time_step
from hornbook.runs.folder import RunFolder
from hornbook.runs.load import load
from hornbook.storage.disk import write_atomically
from hornbook.text.corpus import Corpus, read_corpus
from hornbook.text.dataset import prepare
from hornbook.training.conclude import conclude

if TYPE_CHECKING:
    from hornbook.eval.baselines import Baselines

# From the bottom to the top.
IDEAS = {
    "bigram": "a table of logits",
    "ngram": "counting, no network",
    "average": "the mean of the past",
    "head": "one attention head",
    "heads": "several heads",
    "feedforward": "an MLP",
    "residual": "blocks, residuals",
    "layernorm": "normalisation",
    "gpt": "today's block",
    "lecture": "scale, dropout",
}
# Each of these goes on from the rung below it in its own way; no other rung stands on one.
BRANCHES = ("ngram", "gpt", "lecture")

FULL_STEPS, QUICK_STEPS = 5000, 1000
EVALUATIONS = 10
# With less than this for itself, the place of `lecture` would only say that it is slow.
LECTURE_SECONDS, LECTURE_STEPS = 300, 500
# Losses of neighbouring characters go together; those of pieces this many to a text hardly do.
PIECES = 100

Floats = NDArray[np.float64]


def settings(name: str) -> Config:
    """A rung's settings: the lecture's own; `gpt` in the size of the lecture's small models.

    The table learns at 1e-2, the rate of the lecture's script: at the notebook's 1e-3 it is still
    0.08 nats above that after 5,000 steps (tiny Shakespeare: 2.567 against 2.491).
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
            precision=like.train.precision,
            compile=like.train.compile,
        )
    return preset(name)


@dataclass(frozen=True)
class Climb:
    """One run of the ladder: a rung and a seed.

    `seconds` is its share of the time, where that is what all rungs have alike; the number of
    steps in `config` is then where it starts from.
    """

    rung: str
    config: Config
    folder: RunFolder
    seconds: float | None = None


@dataclass(frozen=True)
class Plan:
    """All that is to be trained, in order."""

    folder: Path
    corpus: Corpus
    budget: str
    climbs: list[Climb]

    @property
    def rungs(self) -> list[str]:
        """The rungs' names from the bottom to the top."""
        return list(dict.fromkeys(climb.rung for climb in self.climbs))


def plan(
    corpus: str = "python-docs",
    *,
    text: Corpus | None = None,
    rungs: Sequence[str] = (),
    steps: int | None = None,
    minutes: float | None = None,
    quick: bool = False,
    seeds: int = 1,
    out: str | Path | None = None,
) -> Plan:
    """What to train: every rung (or those named), for equal steps, or for equal time.

    `minutes` is the training time of the whole ladder, for each seed: each rung trains for an equal
    share of it, evaluations not counted. The large rung `lecture` takes part when it is named, or
    when its share of the time allows it 500 steps. `text` is what `corpus` names, where it has been
    read already.
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
    read = text or read_corpus(corpus)
    # A folder for each budget: a quick look must not cost the runs of a long one.
    kind = (
        "-quick" if quick else f"-{minutes:g}min" if minutes else f"-{steps}steps" if steps else ""
    )
    folder = Path(out) if out else Path("runs") / f"ladder-{read.name}{kind}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}") from None
    reference = training.lasting_reference(corpus, read, RunFolder(folder))
    wanted = {
        name: settings(name).override(corpus=reference)
        for name in IDEAS
        if name in rungs or (not rungs and name != "lecture")
    }
    networks = {name: config for name, config in wanted.items() if name != "ngram"}
    share, evaluations = None, EVALUATIONS
    if minutes and networks:
        counts = steps_for_equal_time(networks, minutes, read, folder, lecture=not rungs)
        share = 60 * minutes / len(counts)
        # Steps timed alone are quick: of as many as would fit, a run takes a third to all.
        evaluations *= 2
        budget = f"equal time, {share:,.0f} s of training a rung"
    else:
        each = steps or (QUICK_STEPS if quick else FULL_STEPS)
        counts = dict.fromkeys(networks, each)
        budget = f"equal steps, {each:,} a rung"
    # Counting has no steps to be equal in.
    counts = {name: counts.get(name, 1) for name in IDEAS if name in counts or name in wanted}
    first_seed = Config().train.seed
    return Plan(
        folder=folder,
        corpus=read,
        budget=budget,
        climbs=[
            Climb(
                name,
                settings(name).override(
                    corpus=reference,
                    seed=seed,
                    steps=count,
                    eval_interval=max(1, count // evaluations),
                    checkpoint_interval=max(1, count // evaluations),
                ),
                RunFolder(folder / f"{name}-{seed}"),
                None if name == "ngram" else share,
            )
            for seed in range(first_seed, first_seed + seeds)
            for name, count in counts.items()
        ],
    )


def steps_for_equal_time(
    wanted: dict[str, Config], minutes: float, corpus: Corpus, folder: Path, *, lecture: bool
) -> dict[str, int]:
    """About how many steps each rung has time for; with `lecture` the large one too, if worth it.

    By these it is evaluated on the way; the pace is kept by what its steps take. They are kept in
    the ladder's folder, so that the same ladder goes on by the numbers it began with.
    """
    kept = folder / "plan.json"
    asked = {"minutes": minutes, "rungs": list(wanted), "lecture": lecture}
    try:
        found = json.loads(kept.read_bytes())
        if found["asked"] == asked:
            return found["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # None kept, or another ladder's: time the rungs anew.
    data = next(iter(wanted.values())).data
    vocab_size = prepare(corpus, data).tokenizer.vocab_size

    def seconds_a_step(config: Config) -> float:
        step = time_step(config, vocab_size, machine.choose(config))
        return step.of(config.train.batch_size * config.model.block_size)

    step_seconds = {name: seconds_a_step(config) for name, config in wanted.items()}
    share = 60 * minutes / (len(wanted) + 1)
    if lecture and share >= LECTURE_SECONDS:
        seconds = seconds_a_step(settings("lecture"))
        if share / seconds >= LECTURE_STEPS:
            step_seconds["lecture"] = seconds
    share = 60 * minutes / len(step_seconds)
    counts = {name: max(1, round(share / seconds)) for name, seconds in step_seconds.items()}
    write_atomically(kept, json.dumps({"asked": asked, "steps": counts}).encode())
    return counts


@dataclass(frozen=True)
class Progress:
    """Where the ladder stands: a run's latest step, or a run found finished (no metrics).

    `steps` is how many the run will take, by what is known now.
    """

    climb: Climb
    metrics: training.StepMetrics | None
    steps: int


def climb(plan: Plan) -> Generator[Progress, None, None]:
    """Train what is not yet trained; each step is yielded.

    A finished run with the same settings and text stays, an unfinished one goes on from its last
    checkpoint, and one whose settings or text have changed is trained anew. However the loop is
    left the state is saved, and the same plan goes on from there.
    Raises: as `hornbook.training` does.
    """
    baselines: Baselines | None = None
    compressed = None
    for each in plan.climbs:
        folder = each.folder
        if folder.config.is_file() and not is_of(folder, each.config, plan.corpus):
            shutil.rmtree(folder.path)
        if folder.result.is_file():
            yield Progress(each, None, folder.figures()["steps"])
            continue
        if folder.config.is_file():
            under_way = training.resume(folder.path, training_seconds=each.seconds)
        else:
            under_way = training.begin(
                each.config, out=folder.path, corpus=plan.corpus, training_seconds=each.seconds
            )
        with under_way.lock:
            for metrics in training.steps(under_way):
                yield Progress(each, metrics, under_way.state.steps)
            result = conclude(under_way, baselines)
            card = report.write(report.examine(result, compressed))
            baselines, compressed = result.baselines, card.compressed


def is_of(folder: RunFolder, config: Config, corpus: Corpus) -> bool:
    """Whether a run has these settings and this text; where it was trained does not matter."""
    anywhere = {"device": "auto", "precision": "auto", "compile": "auto", "threads": 0}
    found = load_config(folder.config).override(**anywhere)
    same_text = folder.environment_facts().get("corpus_sha256") == corpus.sha256
    return same_text and found == config.override(**anywhere)


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
    counted: dict[str, float] = {}
    for name in plan.rungs:
        runs = [each.folder for each in plan.climbs if each.rung == name]
        results = [folder.figures() for folder in runs]
        counted = results[0]["baselines_nats_per_char"]
        losses_by_rung[name] = [validation_losses(plan.corpus, folder) for folder in runs]
        loss_by_seed = [float(each.mean()) for each in losses_by_rung[name]]
        below = [rung.name for rung in rungs if rung.name not in BRANCHES]
        worth, noise = None, None
        if below:
            worth, noise = step_down(losses_by_rung[below[-1]], losses_by_rung[name])
        rungs.append(
            Rung(
                name=name,
                idea=IDEAS[name],
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
                sample=runs[0].sample.read_text(encoding="utf-8"),
                curve=mean_curve(runs),
            )
        )
    seeds = len(plan.climbs) // len(rungs)
    ladder = Ladder(plan.corpus.name, plan.folder, plan.budget, seeds, counted, rungs)
    write_atomically(
        plan.folder / "ladder.json",
        json.dumps(ladder.as_dict(), indent=1, ensure_ascii=False).encode(),
    )
    draw(ladder)
    return ladder


def validation_losses(corpus: Corpus, folder: RunFolder) -> Floats:
    """The best weights' loss at every character of the validation text, in order."""
    trained = load(folder.path, device=machine.choose_device().value)
    tokens = prepare(corpus, trained.config.data, trained.tokenizer).validation
    return losses(trained.model, tokens, block_size=trained.config.model.context_size)


def step_down(upper: Sequence[Floats], lower: Sequence[Floats]) -> tuple[float, float]:
    """How much less a rung loses than the one it stands on, and two standard errors of that.

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

    In equal times some take a few steps more, and may be evaluated once more before their end.
    """
    logged = [[row for row in run.metrics_rows() if row["val_loss"] is not None] for run in runs]
    shortest = min(map(len, logged))
    columns = list(zip(*([*rows[: shortest - 1], rows[-1]] for rows in logged), strict=True))
    return Curve(
        steps=[round(np.mean([row["step"] for row in rows])) for rows in columns],
        seconds=[float(np.mean([row["seconds"] for row in rows])) for rows in columns],
        loss=[float(np.mean([row["val_loss"] for row in rows])) for rows in columns],
    )


def draw(ladder: Ladder) -> None:
    """The rungs' validation curves as ladder.png and ladder.svg, light to dark going up."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    by_time = ladder.budget.startswith("equal time")
    colors = mpl.colormaps["viridis_r"](np.linspace(0.12, 1, len(ladder.rungs)))
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for rung, color in zip(ladder.rungs, colors, strict=True):
        x = rung.curve.seconds if by_time else rung.curve.steps
        label = f"{rung.loss:.3f}  {rung.name}"
        axes.plot(x, rung.curve.loss, color=color, marker="o", markersize=3, label=label)
    axes.axhline(
        ladder.counted["bigram"],
        color="tab:gray",
        linestyle=":",
        linewidth=1,
        label=f"{ladder.counted['bigram']:.3f}  bigram counts",
    )
    axes.set_xlabel("seconds of training" if by_time else "step")
    axes.set_ylabel("validation loss (nats per character)")
    axes.set_title(f"The ladder on {ladder.corpus}: {ladder.budget}")
    axes.grid(alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    for kind in ("svg", "png"):
        picture = BytesIO()
        metadata: dict[str, None] = {"Date": None} if kind == "svg" else {}
        with mpl.rc_context({"svg.hashsalt": "hornbook"}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a glyph that the font lacks is drawn as a box
            figure.savefig(picture, format=kind, dpi=120, metadata=metadata)
        write_atomically(ladder.folder / f"ladder.{kind}", picture.getvalue())
