"""Begins a run: everything before its first step."""

import json
import os
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hornbook.config import Config, Request
from hornbook.cores import slowdown
from hornbook.errors import ConfigError, HornbookWarning
from hornbook.eval.split import Split, measure_split
from hornbook.eval.tokenization import Trial
from hornbook.kernels import runtime
from hornbook.language import msg
from hornbook.models.first_pass import FirstPass, seconds_a_token
from hornbook.models.language_model import LanguageModel
from hornbook.models.ngram import CrossFit
from hornbook.models.registry import build
from hornbook.models.stack import StackModel
from hornbook.ngram.model import NGramModel
from hornbook.ngram.tuning import choose
from hornbook.optim.optimizer import Optimizers
from hornbook.parallel import ALONE, Job, Ranks
from hornbook.plan import Plan, counted_part, learned_part, machine, resolve
from hornbook.plan.costs import counting_seconds
from hornbook.plan.prepare import prepare as apply_choices
from hornbook.plan.resolved import text_of
from hornbook.plan.tokenizer import tokenized
from hornbook.pretrained.find import open_source
from hornbook.pretrained.run_source import knowing
from hornbook.pretrained.source import Source
from hornbook.runs.folder import FORMAT, RunFolder, new_run_path
from hornbook.runs.load import load_counts, save_counts
from hornbook.runs.result import TRIAL
from hornbook.storage.disk import DISK, Disk, write_atomically
from hornbook.storage.lock import Lock
from hornbook.text.arrays import Tokens
from hornbook.text.batches import answer_places
from hornbook.text.corpus import Corpus
from hornbook.text.dataset import Dataset, formed, has_cr, prepare, read_text
from hornbook.text.store import Drawing
from hornbook.training.mixing import first_pass
from hornbook.training.pace import Pace, Replay
from hornbook.training.reference import lasting_settings
from hornbook.training.saves import Saves
from hornbook.training.start import Start, measured_start
from hornbook.training.state import TrainState


class PlannedAnewWarning(HornbookWarning):
    """A run's plan was far off, and another one was made."""


# The settings that counted n-grams and their cross-fitting depend on.
COUNTED_FOR = ("with_counts", "with_mixer", "counted_tokens", "block_size")


@dataclass
class Trainer:
    """A run in training: its state, and everything that a step uses but does not change."""

    state: TrainState
    config: Config
    machine: machine.Machine
    corpus: Corpus
    dataset: Dataset
    tokens: Tokens  # what the network is trained on
    folder: RunFolder
    lock: Lock
    disk: Disk
    tokens_per_step: int
    cross_fit: CrossFit | None = None
    first_pass: FirstPass | None = None  # of the mixer, until it is learned
    context_before: int = 0
    places: NDArray[np.int64] | None = None  # where blocks may begin; anywhere unless given
    drawing: Drawing | None = None  # of a store, which blocks are read
    plan: Plan | None = None
    split: Split | None = None
    trial: Trial | None = None  # of tokenizers
    pace: Pace | None = None
    # What a plan was made from, for another one: the request, and when the run began.
    request: Request | None = None
    started: float = 0.0
    judged: bool = False  # whether its plan was far off is decided once
    planned_anew: bool = False
    start: Start | None = None  # of a model that was not made from nothing
    ranks: Ranks = ALONE
    # With weights that are spread over the ranks: what passes go through, in place of the model.
    sharded: LanguageModel | None = None
    resumed_from: Path | None = None  # the checkpoint that these have yet to be filled from
    saves: Saves = field(default_factory=Saves)


def begin(
    config: Config | Request | None = None,
    *,
    out: str | Path | None = None,
    corpus: Corpus | None = None,
    source: Source | None = None,
    reading: FirstPass | None = None,
    started: float | None = None,
    training_seconds: float | None = None,
    disk: Disk = DISK,
) -> Trainer:
    """Read the text, make the run folder, build the model: everything before the first step.

    `corpus` is the text that the settings name, where it has been read already, and `source` the
    model to begin from that the setting `pretrained` names. `reading` is what a mixer may have
    begun to read of the text. With the setting
    `minutes` the plan is for a run that ends so long after `started` (on the clock of
    time.monotonic; now, unless given), and keeps what was requested. With `training_seconds`
    only the number of steps follows the time, which excludes evaluations.
    Raises: ConfigError, DataError, SourceError.
    """
    started = time.monotonic() if started is None else started
    request = config if isinstance(config, Request) else Request.of(config or Config())
    if request.config.model.pretrained is not None:
        source = source or open_source(request.config.model.pretrained)
        request = source.under(request)
    data = request.config.data
    corpus = formed(corpus, data) if corpus else read_text(data)
    source = knowing(source, corpus) if source else None
    request, trial = tokenized(request, corpus)
    data = request.config.data
    if reading:
        reading.pause()  # steps are timed
    chosen = machine.choose(request.config)
    dataset = prepare(corpus, data, source.tokenizer if source else None)
    dataset.tokenizer.text_has_cr = has_cr(dataset)
    split = measure_split(corpus, dataset)
    resolved = resolve(request, chosen, dataset, started=started)
    config, chosen, plan = resolved.config, resolved.machine, resolved.plan
    folder = RunFolder(Path(out) if out else new_run_path(corpus.name))
    made = not folder.path.exists()
    lock = folder.create(disk)
    try:
        config = config.override(**lasting_settings(data, corpus, folder, disk))
        first = first_pass(config, dataset, reading)  # beside counting, which takes one core
        trainer = assemble(config, chosen, corpus, dataset, folder, lock=lock, disk=disk)
        trainer.first_pass = first
        trainer.split, trainer.request, trainer.started = split, request, started
        trainer.trial = trial
        if source:
            source.load_into(trainer.state.model)
            trainer.start = measured_start(trainer, source)
            runtime.give_back_freed_memory()  # of the file's tensors and of the measurement
        contents = {folder.tokenizer: dataset.tokenizer.to_json().encode()}
        folder.establish(contents | described(trainer), disk)
    except Exception:
        folder.discard(folder=made, disk=disk)
        lock.release()
        raise
    if plan:
        follow(trainer, plan)
    elif training_seconds:
        trainer.pace = training_pace(trainer, training_seconds)
    return trainer


def described(trainer: Trainer) -> dict[Path, bytes]:
    """The run's own files that say what is trained, and by which settings; the latter last."""
    folder = trainer.folder
    environment = {
        "format": FORMAT,
        **machine.describe(),
        "commit": machine.source_commit(),
        "corpus": trainer.corpus.name,
        "corpus_sha256": trainer.corpus.sha256,
        "data_fingerprint": trainer.dataset.fingerprint,
        "text_has_cr": trainer.dataset.tokenizer.text_has_cr,
        "parameters": trainer.state.model.parameter_count,
        **Job.of_environment().recorded(),
        **({TRIAL: trainer.trial.as_dict()} if trainer.trial else {}),
        **(trainer.start.recorded() if trainer.start else {}),
    }
    return {
        folder.environment: json.dumps(environment, indent=1).encode(),
        folder.config: folder.toml(trainer.config),
    }


def follow(trainer: Trainer, plan: Plan) -> None:
    """Have a run end when its minutes do."""
    trainer.plan = plan
    deadline = trainer.started + 60 * trainer.config.train.minutes
    trainer.pace = Pace(
        deadline,
        concluding_seconds=plan.concluding_seconds,
        rest=lambda: reading_left(trainer, plan, deadline),
        slowdown=slowdown(),
    )


def reading_left(trainer: Trainer, plan: Plan, deadline: float) -> float:
    """The seconds that the mixer's first pass takes after training, with nothing beside it."""
    first = trainer.first_pass
    if first is None:
        return 0.0
    seconds = first.seconds_left(seconds_a_token(trainer.dataset.tokenizer.vocab_size))
    if not first.paused:
        seconds -= max(0.0, deadline - plan.concluding_seconds - time.monotonic())
    return max(0.0, seconds - plan.textual_seconds)


def training_pace(trainer: Trainer, seconds: float) -> Pace:
    """A pace on the clock of the steps alone."""
    return Pace(seconds, lambda: trainer.state.seconds, waited=lambda: 0.0)


def begin_again(trainer: Trainer) -> bool:
    """Make another plan for the time that is left, and begin with it; False for the same model.

    Called before anything is saved. The n-grams, which are counted already, and what they depend on
    stay as they are.
    """
    trainer.judged = True
    # Its shape is given and its weights are loaded, or other ranks have it too.
    if trainer.start or trainer.ranks.world > 1:
        return False
    request, before = trainer.request, trainer.config
    text = text_of(before, trainer.dataset)
    if request is None:
        return False
    kept = {name: getattr(before.model, name) for name in COUNTED_FOR}
    request = request.layer(
        {"flag": {**kept, "corpus": before.data.corpus, "encoding": before.data.encoding}}
    )
    counted = trainer.started + counting_seconds(before, text)
    try:
        found = resolve(request, machine.choose(request.config), trainer.dataset, started=counted)
    except ConfigError:  # too little time for another plan
        return False
    config, plan = found.config, found.plan
    unlike = (config.model, config.train.batch_size) != (before.model, before.train.batch_size)
    if plan is None or not unlike:
        return False
    folder, steps = trainer.folder, trainer.state.step
    counts = load_counts(folder, trainer.dataset.tokenizer) if config.model.reads_counts else None
    made = assemble(
        config, found.machine, trainer.corpus, trainer.dataset, folder,
        lock=trainer.lock, disk=trainer.disk, counts=(counts, trainer.cross_fit),
    )  # fmt: skip
    names = "state config machine tokens_per_step cross_fit context_before drawing saves"
    for name in names.split():
        setattr(trainer, name, getattr(made, name))
    # A run without metrics and checkpoints begins at step 0, by whichever plan.
    write_atomically(folder.metrics, b"", trainer.disk)
    folder.replace(described(trainer), trainer.disk)
    follow(trainer, plan)
    trainer.planned_anew = True
    note = msg(
        "steps take far longer than planned: planned anew after {steps} steps, for {planned:,} "
        "steps of {tokens:,} tokens and {parameters:,} parameters",
        steps=steps,
        planned=config.train.steps,
        tokens=trainer.tokens_per_step,
        parameters=trainer.state.model.parameter_count,
    )
    warnings.warn(note, PlannedAnewWarning, stacklevel=3)
    return True


def assemble(
    config: Config,
    chosen: machine.Machine,
    corpus: Corpus,
    dataset: Dataset,
    folder: RunFolder,
    *,
    lock: Lock,
    disk: Disk,
    counts: tuple[NGramModel | None, CrossFit | None] | None = None,
) -> Trainer:
    """Model and optimizers at step 0, on the chosen device, with the chosen kernels.

    N-grams that the model needs are counted here unless given, and saved in the folder.
    """
    tokens = learned_part(config.model, dataset)
    ngram_model, cross_fit = counts or (None, None)
    if config.model.reads_counts and counts is None:
        ngram_model, cross_fit = count(config, dataset)
    if ngram_model and counts is None:
        save_counts(folder, ngram_model, disk)
    if chosen.device.value == "cuda" and config.train.deterministic:
        # cuBLAS reads it when it starts, and refuses deterministic products without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    runtime.keep_freed_memory(config.model.parameter_count(dataset.tokenizer.vocab_size))
    runtime.share_cores(config.train.threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        model = build(config.model, dataset.tokenizer.vocab_size, ngram_model)
        random_state = torch.get_rng_state()
    apply_choices(model, chosen)
    for part in model.modules():
        if isinstance(part, StackModel):
            part.recompute = config.train.recompute
    before = 0
    if cross_fit:
        apply_choices(cross_fit.models, chosen)
        # N-grams also read the tokens before a block: half of the context size, which is the mean
        # for the positions of a new text.
        spare = len(tokens) - config.model.block_size
        before = min(config.model.context_size // 2, spare // 2)
    places = None
    if dataset.answers is not None and dataset.starts is not None:
        answers, starts = dataset.answers[0][: len(tokens)], dataset.starts
        starts = starts[starts < len(tokens)]
        places = answer_places(answers, starts, config.model.block_size, before)
    drawing = None
    if dataset.store is not None and dataset.sample is not None:
        drawing = Drawing.of(
            dataset.store,
            dataset.sample,
            config.data.mix,
            block_size=config.model.block_size,
            seed=config.train.seed,
            before=before,
            held_out=len(dataset.train) - len(tokens),
        )
    train = config.train
    pace = Replay(train.replanned) if train.replanned else None
    return Trainer(
        state=TrainState(
            model=model,
            optimizers=Optimizers(model, config.optimizer, chosen.kernels),
            random_state=random_state,
            steps=pace.steps(0, train.steps, train.eval_interval) if pace else train.steps,
        ),
        config=config,
        machine=chosen,
        corpus=corpus,
        dataset=dataset,
        tokens=tokens,
        folder=folder,
        lock=lock,
        disk=disk,
        tokens_per_step=config.tokens_per_step,
        cross_fit=cross_fit,
        context_before=before,
        places=places,
        drawing=drawing,
        pace=pace,
        saves=Saves(background=train.async_save == "on"),
    )


def count(config: Config, dataset: Dataset) -> tuple[NGramModel, CrossFit | None]:
    """The n-gram model of the training text and, for a network beside it, the cross-fitted ones.

    A function of settings and text, so that a resumed run counts the same again.
    Raises: DataError for a text too short.
    """
    vocab_size, wanted = dataset.tokenizer.vocab_size, config.model
    tokens = counted_part(wanted, dataset)
    recipe = choose(
        tokens, vocab_size, order=wanted.order, smoothing=wanted.smoothing, add_k=wanted.add_k
    )
    ngram_model = recipe.count(tokens, vocab_size)
    if not wanted.with_counts:
        return ngram_model, None
    return ngram_model, CrossFit.count(
        tokens,
        vocab_size,
        recipe,
        block_size=wanted.block_size,
        context_size=wanted.context_size,
        first=len(learned_part(wanted, dataset)) - len(tokens),
    )
