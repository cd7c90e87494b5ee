"""`hornbook train`."""

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from hornbook import cores
from hornbook.cli import beside
from hornbook.cli.console import log, note
from hornbook.cli.terminal import STARTED, TEXT, CorpusArguments, Natural, Whole, print_json
from hornbook.cli.texts import AS_IT_IS, TextOptions, read_texts
from hornbook.config import (
    MODELS,
    Config,
    ModelConfig,
    Request,
    environment_settings,
    one_of,
    parse_all,
    parse_assignments,
    preset_values,
)
from hornbook.errors import ConfigError, HornbookError, command, display_path
from hornbook.language import msg, tr, translated

if TYPE_CHECKING:
    from hornbook.cli.display import Display
    from hornbook.models.first_pass import FirstPass
    from hornbook.plan import Plan
    from hornbook.runs.load import TrainedModel
    from hornbook.text.corpus import Corpus
    from hornbook.training import Trainer

DEFAULT_MINUTES = 2.0


def run(
    *corpus: CorpusArguments,
    out: Path | None = None,
    resume: Path | None = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    lora: Annotated[Whole | None, Parameter(name="--lora")] = None,
    preset: str | None = None,
    model: str | None = None,
    order: Whole | None = None,
    with_counts: Annotated[bool, Parameter(negative="")] = False,
    config: Path | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    minutes: float | None = None,
    steps: Whole | None = None,
    patience: Whole | None = None,
    keep_last: Whole | None = None,
    seed: Whole | None = None,
    tokenizer: str | None = None,
    chat: Annotated[bool, Parameter(negative="")] = False,
    mix: str | None = None,
    reading: TextOptions = AS_IT_IS,
    text: Annotated[str | None, TEXT] = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    page: bool = True,
    serve: Annotated[bool, Parameter(negative="")] = False,
    port: Natural = 8000,
    track: Literal["tensorboard", "wandb", "trackio"] | None = None,
    json: bool = False,
    strict: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
) -> None:
    """Train a model on a text.

    Settings come, strongest first, from flags, --set, environment variables (HORNBOOK_N_LAYER=6),
    the --config file, and the preset.

    Args:
        corpus: A name (see hornbook corpora), a file or several, a folder of text files, a URL, a
            store (see hornbook prepare), or - for standard input. The default is python-docs, which
            comes with Python.
        out: The run folder to make. The default is runs/CORPUS-N.
        resume: Continue the run in this folder with its own settings. A higher --steps trains
            longer than was planned.
        from_: Begin with a trained model and go on with this text: a run, a folder in Hugging
            Face's format, a GGUF file, OWNER/MODEL on the Hub, or smollm2.
        lora: With --from: train factors of this rank beside each matrix, instead of all weights.
            A plan for minutes chooses.
        preset: The settings to start from: laptop (two minutes on two cores), quick (twenty
            seconds), or a rung of the ladder by its name, as --model takes it.
        model: A rung of the ladder, with its own settings: bigram, average, head, heads,
            feedforward, residual, layernorm, lecture (large: for a GPU), gpt (the laptop preset,
            without n-grams), or ngram (counting: it takes seconds, and there is nothing to train).
        order: The longest n-gram, for ngram and --with-counts. By default it is chosen on text held
            out from the training part.
        with_counts: Join the network and n-grams of the same text in one model. A plan for minutes
            does so by itself, unless a preset, model or file is named.
        config: A TOML file of settings; a run's config.toml is one.
        set_: Any setting as key=value, for example --set n_layer=6. May be given several times.
        minutes: How long the whole command may take. Model size, batch size, steps and the rest are
            then chosen for this text and this machine, and what is set here is kept. The default is
            2, unless steps, a preset, a model or a file is given.
        steps: How many steps to train, instead of minutes.
        patience: Stop after so many evaluations in a row without improvement; 0 never stops.
        keep_last: How many of the last checkpoints to keep, beside the best. The default is 1.
        seed: The seed of everything random.
        tokenizer: What a token is: char, byte, bpe, or auto, which takes the one that predicts text
            held out from the training part best. The default is char.
        chat: With --from: learn to answer, from JSON Lines of messages, or of prompt and response.
            Only the answers are learned. The model's own chat template is used, or a simple one.
        mix: Of a store: the groups to draw from, with their weights, such as web=0.7,code=0.3.
        text: With --resume: where the run's text is now, if it was moved since.
        dry_run: Print what would be trained and why, without training.
        page: Write the run's page, which runs the model in a browser (see hornbook page).
        serve: Serve the run as it grows (see hornbook serve): the page shows its loss, samples and
            what is inside. It is served on after training, until Ctrl-C.
        port: With --serve: the port; 0 takes a free one.
        track: Send loss, learning rate, speed and validation loss to a tracker, too: TensorBoard
            (into the run folder), Weights & Biases or Trackio.
        json: Print one JSON object on stdout at the end, and nothing else.
        strict: With --resume: refuse to continue on a machine that may compute other bits.
        quiet: Print only the result.
    """
    assignments = parse_assignments(set_ or [])
    flags = {
        "corpus": "-" if len(corpus) > 1 else "".join(corpus) or None,
        "order": order,
        "with_counts": with_counts or None,
        "minutes": minutes,
        "steps": steps,
        "patience": patience,
        "keep_last": keep_last,
        "seed": seed,
        "pretrained": from_,
        "lora_rank": lora,
        "tokenizer": tokenizer,
        "conversations": chat or None,
        "mix": mix,
    } | reading.given()
    given = {name: value for name, value in flags.items() if value is not None}
    others = {"config": config, "out": out, "preset": preset, "model": model}
    named = {*given, *assignments, *(name for name, value in others.items() if value is not None)}
    longer = named & {"steps", "train.steps"}
    check_resuming(resume, named - longer, text, strict=strict)
    beside.check(port if serve else None, track)
    if from_ is not None and (preset is not None or model is not None):
        raise ConfigError(
            msg("--from says which model it is, so --preset and --model cannot be given")
        )
    request = requested(preset, model, config, parse_all(assignments), given)
    if request.config.model.pretrained is None and request.config.model.lora_rank is not None:
        raise ConfigError(
            msg("--lora trains a part of a model that is there: it needs --from MODEL")
        )

    check_conversations(request.config)
    # Only now: a wrong setting should not wait for torch.
    from hornbook.parallel import Job, join

    job = Job.of_environment()
    if job.rank and request.config.train.parallel == "none":
        return
    with join(job, request.config) as ranks:
        new = resume is None and ranks.world == 1 and not dry_run
        early = before_torch(request, corpus, new=new)
        from hornbook import training as engine
        from hornbook.cli.display import Display
        from hornbook.training.ranks import attend, compare, lead, note_failure, unfinished_run

        compare(ranks, request.config, resume)
        if ranks.rank:
            sys.exit(attend(ranks))
        again = None if resume else unfinished_run(job, out)
        if resume is not None:
            raised = request.config.train.steps if longer else None
            trainer = engine.resume(
                resume, steps=raised, strict=strict, text=text, sharded=ranks.world > 1
            )
            if raised is not None:
                note(
                    msg(
                        "planned for {steps:,} steps now; from step {step:,} on the learning rate "
                        "follows the longer plan",
                        steps=raised,
                        step=trainer.state.step,
                    )
                )
        elif again is not None:
            trainer = engine.resume(again, sharded=ranks.world > 1)
            trainer.ranks = ranks
            note_failure(trainer, "the processes were started again")
        else:
            made = begun(request, corpus, early, out=out, dry_run=dry_run, json=json)
            if made is None:
                return
            trainer = made
        lead(trainer, ranks)
        resumed = bool(resume or again)
        with beside.served(trainer.folder.path, port) if serve else nullcontext() as server:
            display = Display(quiet=quiet)
            follow(trainer, display, track=track, json=json, page=page, resumed=resumed)
            if server is not None:
                beside.wait(server)


@dataclass(frozen=True)
class Reading:
    """A text that was read before torch was imported, and what a mixer has begun to read of it."""

    text: "Corpus"
    first_pass: "FirstPass | None" = None


def before_torch(request: Request, corpus: Sequence[str], *, new: bool) -> Reading | None:
    """Begin what goes on while torch is imported: loading kernels, and a mixer's first pass.

    A `new` run's text is read, and where a plan for minutes may have a mixer, it begins with that.
    """
    from hornbook.kernels import compile_ahead
    from hornbook.models.first_pass import FirstPass, most_read
    from hornbook.text.dataset import prepare

    config = request.config
    if config.model.pretrained is not None or not config.model.spec.c_kernels:
        return None
    compile_ahead()
    if not new:
        return None
    text = texts(request, corpus)
    given = map(request.requested, ("with_counts", "with_mixer", "counted_tokens"))
    if not config.train.minutes or any(given) or not config.model.spec.joins_counts:
        return Reading(text)
    if config.data.tokenizer == "auto":  # which one is decided by measuring
        return Reading(text)
    dataset = prepare(text, config.data)
    held_out = replace(config.model, with_mixer=True).held_out(len(dataset.train))
    sizes = len(dataset.validation), dataset.tokenizer.vocab_size
    most = min(config.model.counted_tokens, most_read(config.train.minutes, *sizes))
    if not held_out or not most:
        return Reading(text)
    return Reading(text, FirstPass(dataset.tokenizer, dataset.train[-most:], held_out))


def texts(request: Request, corpus: Sequence[str]) -> "Corpus":
    """The text of a new run."""
    data = request.config.data
    return read_texts(corpus if len(corpus) > 1 else (data.corpus,), data)


def begun(
    request: Request,
    corpus: Sequence[str],
    reading: Reading | None,
    *,
    out: Path | None,
    dry_run: bool,
    json: bool,
) -> "Trainer | None":
    """A new run, before its first step; None where only its plan is wanted, and is printed."""
    from hornbook import plan
    from hornbook import training as engine

    source = None
    if request.config.model.pretrained is not None:
        from hornbook.pretrained.find import open_source

        source = open_source(request.config.model.pretrained)
        request = source.under(request)
    reading = reading or Reading(texts(request, corpus))
    if dry_run:
        from hornbook.pretrained.run_source import knowing

        found = reading.text
        known = knowing(source, found).tokenizer if source else None
        show_plan(plan.dry_run(request, found, known, started=STARTED), found, json=json)
        return None
    return engine.begin(
        request,
        out=out,
        corpus=reading.text,
        source=source,
        reading=reading.first_pass,
        started=STARTED,
    )


def check_conversations(config: Config) -> None:
    """Raises: ConfigError for conversations without a model, or read as another text too."""
    if not config.data.conversations:
        return
    if config.model.pretrained is None:
        raise ConfigError(
            msg(
                "--chat teaches a trained model to answer, so it needs --from MODEL: a run, a "
                "folder, a GGUF file, a name on the Hub, or smollm2"
            )
        )
    if config.data.field is not None:
        raise ConfigError(
            msg("--chat reads messages, or prompt and response, so --field has no use")
        )


def check_resuming(
    resume: Path | None, others: set[str], text: str | None, *, strict: bool
) -> None:
    """Check what may and what must be given with --resume. Raises: ConfigError."""
    if resume is not None and others:
        raise ConfigError(
            msg(
                "--resume uses the run's own settings, so {others} cannot be given too "
                "(--steps can, to train longer); train a new run for other settings",
                others=", ".join(sorted(others)),
            )
        )
    if text is not None and resume is None:
        raise ConfigError(
            msg(
                "--text says where the text of a run is now, so it needs --resume RUN; to "
                "train on a text, use {command}",
                command=command("train", text),
            )
        )
    if strict and resume is None:
        raise ConfigError(
            msg("--strict compares a run's machine with this one: it needs --resume RUN")
        )


def follow(
    trainer: "Trainer",
    display: "Display",
    *,
    track: str | None,
    json: bool,
    page: bool,
    resumed: bool,
) -> None:
    """Train to the end, showing each step, then page and report card; print where a run stopped."""
    from hornbook import report
    from hornbook import training as engine
    from hornbook.training.conclude import conclude
    from hornbook.training.energy import EnergyMeter
    from hornbook.training.ranks import note_failure
    from hornbook.training.trackers import Tracking

    energy = EnergyMeter()
    try:
        display.announce(trainer)
        tracking = Tracking(trainer, track)
        # To the last of its files the run has one writer.
        with trainer.lock:
            # Closed explicitly: leaving the loop saves, and an error of the disk must be raised.
            first = trainer.first_pass
            # Where it reads beside the steps, there is no better moment for this.
            beside_steps = first and len(first.tokens) < len(trainer.dataset.train)
            known = report.ahead(trainer) if beside_steps else None
            with display, closing(tracking), closing(engine.steps(trainer)) as taken:
                for metrics in taken:
                    display.show(metrics)
                    tracking.log(metrics)
                    energy.read()
                    # The mixer reads the rest of its text next, on one core.
                    if first and not known and metrics.step == trainer.state.steps:
                        known = report.ahead(trainer)
            baselines, textual = known.result() if known else (None, None)
            # A mixer has no infinite loss, and reads the validation text on one core.
            paging = cores.beside(write_page, trainer) if page and known else None
            joules = None if resumed else energy.read()
            result = conclude(trainer, baselines, energy_joules=joules)
            finite = math.isfinite(result.evaluation.nats_per_char)
            if page and finite and not paging:
                write_page(trainer, result.trained)
            card = report.write(report.examine(result, textual)) if finite else None
            if paging:
                paging.result()
    except (KeyboardInterrupt, SystemExit):
        log(
            msg(
                "stopped at step {step} of {steps}, saved; go on with:",
                step=trainer.state.step,
                steps=trainer.state.steps,
            )
        )
        log(f"  {command('train', '--resume', trainer.folder.path)}")
        raise
    except HornbookError as error:
        if trainer.ranks.world > 1:
            note_failure(trainer, str(error))
        log(msg("the run so far is in {folder}", folder=display_path(trainer.folder.path)))
        raise
    if json:
        print_json(result.as_dict())
    elif card:
        display.conclude(card)
    else:
        infinite = tr(
            "validation loss: infinite (inf), because the model gives probability zero to "
            "something in the text; so there is no report card"
        )
        sys.stdout.write(f"{infinite}\n")


def write_page(trainer: "Trainer", trained: "TrainedModel | None" = None) -> None:
    """Write a run's page; a run without one is complete, so that an error is only a note."""
    from hornbook.page import write
    from hornbook.runs.load import load

    try:
        write(trained or load(trainer.folder.path), dataset=trainer.dataset)
    except HornbookError as error:
        note(msg("no page was written: {error}", error=error))


def show_plan(planned: "Plan", found: "Corpus", *, json: bool) -> None:
    """A plan on stdout: a line for each reason, or one JSON object."""
    from hornbook.cli.display import subject_of

    if json:
        skipped = [asdict(each) for each in found.skipped]
        print_json({**planned.as_dict(), "skipped_files": skipped})
        return
    lines = [(each.value, each.why) for each in planned.reasons]
    if planned.split:
        lines.append(("split", planned.split.copied.sentence()))
    for subject, line in lines:
        sys.stdout.write(f"{subject_of(subject, 9)} {translated(line)}\n")
    if planned.split:
        for warning in planned.split.warnings():
            note(warning)


def requested(
    preset: str | None,
    model: str | None,
    file: Path | None,
    assignments: Mapping[str, object],
    flags: Mapping[str, object],
) -> Request:
    """The settings of preset (a model's own, when one is named), file, environment and flags.

    Raises: ConfigError for an unknown name or a bad value, for a preset or setting of another
    model, and when minutes and steps are both given alike.
    """
    if model not in (None, *MODELS, "lecture"):
        raise ConfigError(
            msg(
                "--model {model}: {one_of}", model=model, one_of=one_of(model, (*MODELS, "lecture"))
            )
        )
    own = preset_values(model if model and model != ModelConfig.model else "laptop")
    named = preset is not None or model is not None
    request = Request().layer({"preset": own if preset is None else preset_values(preset)})
    if named or file is not None:
        # Which says by itself whether there are n-grams beside its network.
        model_ = request.config.model
        own_ = {"with_counts": model_.with_counts, "with_mixer": model_.with_mixer}
        request = request.layer({"preset": own_})
    if flags.get("with_counts") and request.config.model.spec.joins_counts:
        request = request.layer({"preset": {"with_mixer": True}})  # which --set may leave out
    if file is not None:
        request = request.read(file)
        kept = file.parent / request.config.data.corpus  # a run's own copy of its text
        if request.config.data.corpus == "input.txt" and kept.is_file():
            request = request.layer({"file": {"corpus": str(kept.resolve())}})
    request = request.layer({"environment": parse_all(environment_settings()), "set": assignments})
    request = request.layer({"flag": flags})
    # The preset `lecture` is a layernorm model, so models are compared, not names.
    if model is not None and request.config.model.model != own.get("model", ModelConfig.model):
        raise ConfigError(
            msg(
                "--model {model} is at odds with model = {other!r} from --preset, --config, "
                "--set or HORNBOOK_MODEL; give one of them",
                model=model,
                other=request.config.model.model,
            )
        )
    return request.lasting(None if named or file is not None else DEFAULT_MINUTES)
