"""The ladder: every rung from a bigram to a GPT, trained alike.

runs/ladder-shakespeare/   bigram-1337/ average-1337/ ...  ladder.json ladder.png ladder.svg

What each idea was worth is measured by ladder_figures.py.
"""

import json
import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hornbook import report, training
from hornbook.config import MODELS, Config, DataConfig, preset, spec_of
from hornbook.errors import ConfigError, reason
from hornbook.language import msg
from hornbook.plan import machine
from hornbook.plan.timing import time_step
from hornbook.runs.folder import RunFolder
from hornbook.storage.disk import write_atomically
from hornbook.text.corpus import Corpus
from hornbook.text.dataset import prepare, read_text
from hornbook.training.conclude import conclude

if TYPE_CHECKING:
    from hornbook.eval.baselines import Baselines

# The top rung, a size of another, and what it adds.
LARGE, LARGE_IDEA = "lecture", msg("scale, dropout")

FULL_STEPS, QUICK_STEPS = 5000, 1000
EVALUATIONS = 10
# With less time than this, the place of `lecture` would only show that it is slow.
LECTURE_SECONDS, LECTURE_STEPS = 300, 500


def ideas() -> dict[str, str]:
    """The rungs from the bottom to the top, each with what it adds.

    The bottom one is no branch: a branch is compared with the rung below it.
    """
    rungs = [name for name in MODELS if spec_of(name).rung]
    bottom = next(name for name in rungs if not spec_of(name).branch)
    names = [bottom, *(name for name in rungs if name != bottom)]
    return {name: spec_of(name).idea for name in names} | {LARGE: LARGE_IDEA}


def settings(name: str) -> Config:
    """A rung's settings: its model's preset, with what the ladder changes."""
    if name == LARGE:
        return preset(name)
    spec = spec_of(name)
    return Config().override(model=name, **{**spec.preset, **spec.ladder})


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
    reading: DataConfig | None = None,
    text: Corpus | None = None,
    rungs: Sequence[str] = (),
    steps: int | None = None,
    minutes: float | None = None,
    quick: bool = False,
    seeds: int = 1,
    out: str | Path | None = None,
) -> Plan:
    """What to train: every rung or those named, for equal steps or for equal time.

    `minutes` is the training time of the whole ladder, for each seed: each rung trains for an equal
    share of it, evaluations not counted. The large rung `lecture` takes part when it is named, or
    when its share of the time allows 500 steps. `reading` has the encoding, the field
    and the forms in which `corpus` is read, and `text` is what it names, if it has been read.
    Raises: ConfigError, DataError.
    """
    known = ideas()
    unknown = [name for name in rungs if name not in known]
    if unknown:
        raise ConfigError(
            msg("--rungs {rung}: expected some of {known}", rung=unknown[0], known=", ".join(known))
        )
    if sum((steps is not None, minutes is not None, quick)) > 1:
        raise ConfigError(
            msg("--steps, --minutes and --quick each set the budget; give one of them")
        )
    for name, value in (("steps", steps), ("minutes", minutes), ("seeds", seeds)):
        if value is not None and not 0 < value < 1e9:
            raise ConfigError(msg("--{name} {value}: expected more than 0", name=name, value=value))
    data = replace(reading or DataConfig(), corpus=corpus)
    read = text or read_text(data)
    # A folder for each budget: a quick look must not cost the runs of a long one.
    kind = (
        "-quick" if quick else f"-{minutes:g}min" if minutes else f"-{steps}steps" if steps else ""
    )
    folder = Path(out) if out else Path("runs") / f"ladder-{read.name}{kind}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(msg("--out {folder}: {why}", folder=folder, why=reason(error))) from None
    lasting = training.lasting_settings(data, read, RunFolder(folder))
    wanted = {
        name: settings(name).override(**lasting)
        for name in known
        if name in rungs or (not rungs and name != LARGE)
    }
    networks = {name: each for name, each in wanted.items() if not each.model.spec.counted}
    share, evaluations = None, EVALUATIONS
    if minutes and networks:
        counts = steps_for_equal_time(networks, minutes, read, folder, lecture=not rungs)
        share = 60 * minutes / len(counts)
        # Steps timed alone are quick: a run takes a third to all of the steps that would fit.
        evaluations *= 2
        budget = msg("equal time, {seconds:,.0f} s of training a rung", seconds=share)
    else:
        each = steps or (QUICK_STEPS if quick else FULL_STEPS)
        counts = dict.fromkeys(networks, each)
        budget = msg("equal steps, {steps:,} a rung", steps=each)
    # Counting takes one step, whatever the budget.
    counts = {name: counts.get(name, 1) for name in known if name in counts or name in wanted}
    first_seed = Config().train.seed
    return Plan(
        folder=folder,
        corpus=read,
        budget=budget,
        climbs=[
            Climb(
                name,
                settings(name).override(
                    **lasting,
                    seed=seed,
                    steps=count,
                    eval_interval=max(1, count // evaluations),
                    checkpoint_interval=max(1, count // evaluations),
                ),
                RunFolder(folder / f"{name}-{seed}"),
                share if name in networks or name == LARGE else None,
            )
            for seed in range(first_seed, first_seed + seeds)
            for name, count in counts.items()
        ],
    )


def steps_for_equal_time(
    wanted: dict[str, Config], minutes: float, corpus: Corpus, folder: Path, *, lecture: bool
) -> dict[str, int]:
    """About how many steps each rung has time for; with `lecture` the large one too, if worth it.

    Evaluations follow these numbers; the pace follows what the steps take. They are kept in the
    ladder's folder, so that the same ladder continues with the numbers it began with.
    """
    kept = folder / "plan.json"
    requested = {"minutes": minutes, "rungs": list(wanted), "lecture": lecture}
    try:
        found = json.loads(kept.read_bytes())
        if found["asked"] == requested:
            return found["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none kept, or another ladder's: time the rungs anew
    data = next(iter(wanted.values())).data
    vocab_size = prepare(corpus, data).tokenizer.vocab_size

    def seconds_a_step(config: Config) -> float:
        step = time_step(config, vocab_size, machine.choose(config))
        return step.of(config.tokens_per_step)

    step_seconds = {name: seconds_a_step(config) for name, config in wanted.items()}
    share = 60 * minutes / (len(wanted) + 1)
    if lecture and share >= LECTURE_SECONDS:
        seconds = seconds_a_step(settings(LARGE))
        if share / seconds >= LECTURE_STEPS:
            step_seconds[LARGE] = seconds
    share = 60 * minutes / len(step_seconds)
    counts = {name: max(1, round(share / seconds)) for name, seconds in step_seconds.items()}
    write_atomically(kept, json.dumps({"asked": requested, "steps": counts}).encode())
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
    """Train what is not yet trained, yielding each step.

    A finished run with the same settings and text stays, an unfinished one continues from its last
    checkpoint, and one whose settings or text have changed is trained anew. However the loop is
    left, the state is saved, and the same plan continues from there.
    Raises: as `hornbook.training` does.
    """
    baselines: Baselines | None = None
    textual: report.Textual | None = None
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
            fraction = each.config.data.validation_fraction
            textual = textual or report.Textual.of(result.corpus, fraction)
            report.write(report.examine(result, textual))
            baselines = result.baselines


def is_of(folder: RunFolder, config: Config, corpus: Corpus) -> bool:
    """Whether a run has these settings and this text, on whichever machine it was trained."""
    chosen = ("device", "precision", "compile", "parallel", "async_save")
    anywhere = dict.fromkeys(chosen, "auto") | {"threads": 0, "corpus": config.data.corpus}
    found = folder.settings().override(**anywhere)
    same_text = folder.environment_facts().get("corpus_sha256") == corpus.sha256
    return same_text and found == config.override(**anywhere)
