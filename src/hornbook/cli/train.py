"""`hornbook train`."""

import json as json_format
import math
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hornbook.cli.terminal import STARTED, CorpusArgument, Whole, note, read, say
from hornbook.config import (
    FIELDS,
    PRESETS,
    Config,
    environment_settings,
    load_config,
    locate,
    parse_assignments,
)
from hornbook.config import (
    preset as named_preset,
)
from hornbook.errors import ConfigError, HornbookError

if TYPE_CHECKING:
    from hornbook.cli.display import Display
    from hornbook.plan.budget import Plan
    from hornbook.training import Trainer

DEFAULT_MINUTES = 2.0


def run(
    corpus: CorpusArgument = None,
    /,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    preset: str | None = None,
    model: str | None = None,
    order: int | None = None,
    with_counts: Annotated[bool, Parameter(negative="")] = False,
    config: Path | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    minutes: float | None = None,
    steps: Whole | None = None,
    patience: Whole | None = None,
    keep_last: Whole | None = None,
    seed: Whole | None = None,
    tokenizer: str | None = None,
    encoding: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    json: bool = False,
    strict: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
) -> None:
    """Train a model on a text.

    Settings come, strongest first, from flags, environment variables (HORNBOOK_N_LAYER=6), the
    --config file, and the preset.

    Parameters
    ----------
    corpus
        A name (see hornbook corpora), a file, a folder of text files, a URL, or - for standard
        input; python-docs, which comes with Python, when left out.
    out
        The run folder to make; runs/CORPUS-N when left out.
    resume
        Go on with the run in this folder, by its own settings; with a higher --steps, for longer
        than was planned.
    preset
        Where the settings start from: laptop (two minutes on two cores), quick (twenty
        seconds), or a rung of the ladder by its name, as --model takes it.
    model
        A rung of the ladder, with its own settings: bigram, average, head, heads, feedforward,
        residual, layernorm, lecture (large: for a GPU), gpt (the laptop preset, without counts),
        or ngram (counting: seconds, and nothing to train).
    order
        How long the counted runs of tokens are, for ngram and --with-counts; chosen on text held
        out from the training part when left out.
    with_counts
        Join the network and counts of the same text in one model: what minutes do by themselves,
        unless a preset, model or file is named.
    config
        A TOML file of settings; a run's config.toml is one.
    set_
        Any setting as key=value, for example --set n_layer=6; may be given several times.
    minutes
        How long the whole command may take: size, batch, steps and the rest are then chosen for
        this text and this machine, but for what is set here. 2 when nothing else says how long.
    steps
        How many steps to train, instead of minutes.
    patience
        Stop once so many evaluations in a row bring nothing better; 0 never does.
    keep_last
        How many of the last checkpoints to keep, beside the best; 1 when left out.
    seed
        Fixes everything that is random.
    tokenizer
        What a token is: char, byte, or bpe.
    encoding
        The text's encoding, where it is not UTF-8.
    dry_run
        Say what would be trained and why, and stop there.
    json
        End with one JSON object on stdout, and nothing else there.
    strict
        With --resume: refuse where the machine may compute other bits than the one before.
    quiet
        No display, only the result.
    """
    assignments = parse_assignments(set_ or [])
    flags = {
        "corpus": corpus,
        "order": order,
        "with_counts": with_counts or None,
        "minutes": minutes,
        "steps": steps,
        "patience": patience,
        "keep_last": keep_last,
        "seed": seed,
        "tokenizer": tokenizer,
        "encoding": encoding,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    others = {"config": config, "out": out, "preset": preset, "model": model}
    named = {*given, *assignments, *(name for name, value in others.items() if value is not None)}
    longer = named & {"steps", "train.steps"}
    if resume is not None and named - longer:
        raise ConfigError(
            f"--resume goes on with the run's own settings, so {', '.join(sorted(named - longer))} "
            "cannot be given too (--steps can, to go on for longer); train a new run for other "
            "settings"
        )
    if strict and resume is None:
        raise ConfigError("--strict compares a run's machine with this one: it needs --resume RUN")
    loose = environment_settings() | assignments
    settings = resolve(preset, model, config, loose).override(**given)
    settings, asked = with_minutes(
        settings,
        flags=set(given),
        loose={locate(name)[1] for name in loose},
        from_elsewhere=bool(preset or model or config),
    )

    # Only now: a wrong setting should not wait for torch.
    from hornbook.kernels import compile_ahead

    if settings.model.model == "gpt":
        compile_ahead()
    from hornbook import training as engine
    from hornbook.cli.display import Display

    display = Display(quiet=quiet)
    if resume is not None:
        raised = settings.train.steps if longer else None
        trainer = engine.resume(resume, steps=raised, strict=strict)
        if raised is not None:
            note(
                f"planned for {raised:,} steps now; from step {trainer.state.step:,} on the "
                "learning rate follows the longer plan"
            )
    else:
        text = read(settings.data.corpus, settings.data.encoding)
        if dry_run:
            show_plan(engine.dry_run(settings, text, started=STARTED, asked=asked), json=json)
            return
        trainer = engine.begin(settings, out=out, corpus=text, started=STARTED, asked=asked)
    follow(trainer, display, json=json, resumed=resume is not None)


def follow(trainer: "Trainer", display: "Display", *, json: bool, resumed: bool) -> None:
    """Train to the end, showing each step, then the report card; whatever ends it, say what is."""
    from hornbook import report
    from hornbook import training as engine
    from hornbook.training.conclude import conclude
    from hornbook.training.energy import EnergyMeter

    energy = EnergyMeter()
    try:
        display.announce(trainer)
        # To the last of its files the run has one writer.
        with trainer.lock:
            # Closed by hand: leaving the loop saves, and a disk that refuses then must be heard.
            with display, closing(engine.steps(trainer)) as taken:
                for metrics in taken:
                    display.show(metrics)
                    energy.read()
            result = conclude(trainer, energy_joules=None if resumed else energy.read())
            finite = math.isfinite(result.evaluation.nats_per_char)
            card = report.write(report.examine(result)) if finite else None
    except (KeyboardInterrupt, SystemExit):
        say(f"stopped at step {trainer.state.step} of {trainer.state.steps}, saved; go on with:")
        say(f"  hornbook train --resume {trainer.folder.path}")
        raise
    except HornbookError:
        say(f"the run so far is in {trainer.folder.path}")
        raise
    if json:
        sys.stdout.write(json_format.dumps(result.as_dict()) + "\n")
    elif card:
        display.conclude(card)
    else:
        sys.stdout.write(
            "validation loss: infinite (inf), because the text holds what this model takes for "
            "impossible; so there is no report card\n"
        )


def show_plan(plan: "Plan", *, json: bool) -> None:
    """A plan on stdout: four lines, or one JSON object."""
    if json:
        sys.stdout.write(json_format.dumps(plan.as_dict()) + "\n")
        return
    for reason in plan.reasons:
        sys.stdout.write(f"{reason.value:<8} {reason.why}\n")


def with_minutes(
    settings: Config, *, flags: set[str], loose: set[str], from_elsewhere: bool
) -> tuple[Config, set[str]]:
    """Two minutes where nothing says how long to train, and the settings that a plan must keep.

    `flags` and `loose` (from --set and the environment) are those named one by one;
    `from_elsewhere`, whether a preset or file names others. A flag is stronger than the loose.
    Raises: ConfigError when both minutes and steps are asked for alike.
    """
    says = {"minutes", "steps"}
    if says <= flags or (says <= loose and not says & flags):
        raise ConfigError("minutes and steps both say how long to train; give one of them")
    asked = (loose - says if says & flags else loose) | flags
    if from_elsewhere:  # which says by itself whether there are counts beside its network
        asked |= {"with_counts"}
    if "steps" in asked:
        settings = settings.override(minutes=0.0)
    elif not (from_elsewhere or says & asked):
        settings = settings.override(minutes=DEFAULT_MINUTES)
    chosen = {name for name in FIELDS if differs(settings, name)}
    return settings, asked | (chosen - says if "minutes" in asked else chosen)


def differs(settings: Config, name: str) -> bool:
    """Whether a setting is not the default one: a preset or a file has chosen it."""
    section = FIELDS[name]
    return getattr(getattr(settings, section), name) != getattr(getattr(Config(), section), name)


def resolve(
    preset: str | None, model: str | None, config: Path | None, assignments: dict[str, str]
) -> Config:
    """The settings of a preset (a rung's own, when a model is named), file and assignments.

    Raises: ConfigError for an unknown name, or a preset or setting of another model.
    """
    rungs = {"gpt": "laptop"} | {name: name for name in PRESETS if name not in ("laptop", "quick")}
    if model is not None and model not in rungs:
        raise ConfigError(f"--model {model}: expected one of {', '.join(sorted(rungs))}")
    own = named_preset(rungs[model or "gpt"])
    settings = own if preset is None else named_preset(preset)
    if config is not None:
        settings = load_config(config, settings)
    settings = settings.override_from_text(assignments)
    # The rung `lecture` is a layernorm model by kind, so kinds are compared, not names.
    if model is not None and settings.model.model != own.model.model:
        raise ConfigError(
            f"--model {model} is at odds with model = {settings.model.model!r} from --preset, "
            "--config, --set or HORNBOOK_MODEL; give one of them"
        )
    return settings
