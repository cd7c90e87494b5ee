"""Training: a step is a function of the state and its batches; a run is a generator of steps."""

import json
import math
import os
import time
import warnings
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hornbook.config import Config, Request, SamplingConfig, load_config
from hornbook.errors import (
    CheckpointError,
    ConfigError,
    HornbookWarning,
    NonFiniteLossError,
    redacted,
)
from hornbook.eval.diagnosis import curve, evaluations_since_best
from hornbook.eval.loss import estimate
from hornbook.infer import generate
from hornbook.infer.torch_decoder import snapshot
from hornbook.kernels import runtime
from hornbook.models import build
from hornbook.models.crossfit import CrossFit
from hornbook.models.ngram import Counted
from hornbook.ngram.counting import NGramModel
from hornbook.ngram.tuning import choose
from hornbook.optim.optimizer import Optimizers, learning_rate_scale
from hornbook.plan import check_memory, counted_part, machine, resolve
from hornbook.plan.prepare import prepare as apply
from hornbook.runs.run import (
    FORMAT,
    RunFolder,
    check_same_text,
    load_checkpoint,
    new_run_path,
    open_run,
    save_counts,
    steps_never_saved,
)
from hornbook.storage import checkpoint
from hornbook.storage.disk import DISK, Disk, write_atomically
from hornbook.storage.lock import Lock
from hornbook.storage.signals import signals_held
from hornbook.text.corpora import CATALOGUE
from hornbook.text.corpus import Corpus, read_corpus
from hornbook.text.dataset import Dataset, batch, batch_starts, prepare
from hornbook.text.tokenizer import load_tokenizer
from hornbook.train.pace import Pace
from hornbook.train.state import (
    StepMetrics,
    Training,
    record,
    restore,
    save_if_best,
    save_last,
    training_stream,
)


class UnsavedStepsWarning(HornbookWarning):
    """Steps that a run has taken are in no checkpoint, and are taken again."""

    label = "warning"


def begin(
    config: Config | Request | None = None,
    *,
    out: str | Path | None = None,
    corpus: Corpus | None = None,
    started: float | None = None,
    training_seconds: float | None = None,
    disk: Disk = DISK,
) -> Training:
    """Read the text, make the run folder, build the model: all but the first step.

    `corpus` is the text that the settings name, where it has been read already. With the setting
    `minutes` the model is the best for a run that ends so long after `started` (on the clock of
    time.monotonic; now, unless given), and keeps what was requested. With `training_seconds` only
    the steps follow the time, which evaluations do not count towards.
    Raises: ConfigError, DataError.
    """
    started = time.monotonic() if started is None else started
    request = config if isinstance(config, Request) else Request.of(config or Config())
    data = request.config.data
    corpus = corpus or read_corpus(data.corpus, encoding=data.encoding)
    chosen = machine.choose(request.config)
    dataset = prepare(corpus, data)
    resolved = resolve(request, chosen, dataset, started=started)
    config, chosen, plan = resolved.config, resolved.machine, resolved.plan
    folder = RunFolder(Path(out) if out else new_run_path(corpus.name))
    lock = folder.create(disk)
    config = config.override(corpus=lasting_reference(config.data.corpus, corpus, folder, disk))
    training = assemble(config, chosen, corpus, dataset, folder, lock=lock, disk=disk)
    environment = {
        "format": FORMAT,
        **machine.describe(),
        "commit": machine.source_commit(),
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        "data_fingerprint": dataset.fingerprint,
        "parameters": training.model.parameter_count,
    }
    contents = {
        folder.tokenizer: dataset.tokenizer.to_json().encode(),
        folder.environment: json.dumps(environment, indent=1).encode(),
        folder.config: config.to_toml().encode(),
    }
    folder.establish(contents, disk)
    if plan:
        training.plan = plan
        training.pace = Pace(started + 60 * config.train.minutes - plan.concluding_seconds)
    elif training_seconds:
        training.pace = Pace(training_seconds, lambda: training.seconds)
    return training


def lasting_reference(asked: str, corpus: Corpus, folder: RunFolder, disk: Disk = DISK) -> str:
    """A name for the text that finds it again later, from any directory.

    What came on standard input cannot be read twice, and an address with a password or a token in
    it must not be written down, so the run keeps a copy.
    """
    if asked == "-" or redacted(asked) != asked:
        # In chunks: what comes through a pipe may be larger than memory.
        write_atomically(folder.text, (chunk.encode() for chunk in corpus.chunks()), disk)
        return str(folder.text.resolve())
    by_name = any(asked in (known.name, *known.aliases) for known in CATALOGUE)
    path = Path(asked).expanduser()
    return asked if by_name or not path.exists() else str(path.resolve())


def resume(
    path: str | Path,
    *,
    steps: int | None = None,
    training_seconds: float | None = None,
    strict: bool = False,
    disk: Disk = DISK,
) -> Training:
    """A run as its last checkpoint left it; `steps` lets it go on for longer than was planned.

    `training_seconds` is as `begin` was told, those before the stop counted in.
    The schedule of the learning rate follows the new total from there on. Where the machine may
    compute other bits than the one before, an OtherMachineWarning says so; `strict` refuses. A run
    killed before its first checkpoint begins again, and an UnsavedStepsWarning says so.
    Raises: CheckpointError when the run is missing, damaged or in use, its checkpoints are gone, or
    its text has changed; ConfigError for fewer steps than planned.
    """
    folder = open_run(path)
    if folder.checkpoints.is_symlink():
        raise CheckpointError(
            f"{folder.checkpoints}: a symbolic link, and a run writes only inside its own folder: "
            "move the checkpoints there"
        )
    lock = Lock(folder.path)
    lock.acquire()
    with suppress(OSError):  # Leftovers of a crash, in nobody's way.
        disk.sweep(folder.path)
        disk.sweep(folder.checkpoints)
    planned = load_config(folder.config)
    if steps is not None and steps < planned.train.steps:
        raise ConfigError(
            f"--steps {steps}: the run is planned for {planned.train.steps} steps, and a plan can "
            "only be made longer"
        )
    saved = bool(checkpoint.folders(folder.checkpoints, "step"))
    if not saved and (lost := steps_never_saved(folder)):
        said = (
            f"{folder.checkpoints}: no checkpoint is there, and none was due yet (every "
            f"{planned.train.checkpoint_interval:,} steps): training begins again at step 0, and "
            f"the {lost:,} steps in metrics.jsonl are taken again"
        )
        warnings.warn(said, UnsavedStepsWarning, stacklevel=2)
    config = planned if steps is None else planned.override(steps=steps, minutes=0.0)
    corpus = read_corpus(config.data.corpus, encoding=config.data.encoding)
    check_same_text(corpus, folder)
    dataset = prepare(corpus, config.data, load_tokenizer(folder.tokenizer))
    chosen = machine.choose_again(config)
    check_memory(config, chosen, dataset)
    training = assemble(config, chosen, corpus, dataset, folder, lock=lock, disk=disk)
    if saved:
        found = load_checkpoint(folder, "last")
        restore(training, found, strict=strict)
        if config.train.minutes or training_seconds:
            # As many as the pace had settled on.
            training.config = config.override(steps=found.state["steps"])
    # With `minutes` there is none any more: the time that is gone by says nothing.
    if training_seconds:
        training.pace = Pace(training_seconds, lambda: training.seconds)
    done = training.step - (training.unfinished is not None)
    rows = [row for row in folder.metrics_rows() if row["step"] <= done]
    write_atomically(folder.metrics, "".join(json.dumps(row) + "\n" for row in rows).encode(), disk)
    if config != planned:
        folder.replace_config(config, disk)
    return training


def assemble(
    config: Config,
    chosen: machine.Machine,
    corpus: Corpus,
    dataset: Dataset,
    folder: RunFolder,
    *,
    lock: Lock,
    disk: Disk,
) -> Training:
    """Model and optimizers at step 0, on the chosen device, compiled if chosen.

    What counts it needs are counted here, and kept in the folder.
    """
    counted, cross_fit = count(config, dataset) if config.model.reads_counts else (None, None)
    if counted:
        save_counts(folder, counted, disk)
    if chosen.device.value == "cuda" and config.train.deterministic:
        # cuBLAS reads it when it starts, and refuses deterministic products without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    runtime.keep_freed_memory()
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        model = build(config.model, dataset.tokenizer.vocab_size, counted)
        random_state = torch.get_rng_state()
    apply(model, chosen)
    if cross_fit:
        apply(cross_fit.parts, chosen)
    return Training(
        folder=folder,
        config=config,
        machine=chosen,
        corpus=corpus,
        dataset=dataset,
        model=model,
        optimizers=Optimizers(model, config.optimizer, chosen.kernels),
        random_state=random_state,
        lock=lock,
        disk=disk,
        cross_fit=cross_fit,
    )


def count(config: Config, dataset: Dataset) -> tuple[NGramModel, CrossFit | None]:
    """The training text counted, and, for a network beside it, counted without each part in turn.

    A function of settings and text: a resumed run counts again.
    Raises: DataError for a text too short.
    """
    vocab_size, asked = dataset.tokenizer.vocab_size, config.model
    tokens = counted_part(asked, dataset)
    recipe = choose(
        tokens, vocab_size, order=asked.order, smoothing=asked.smoothing, add_k=asked.add_k
    )
    counted = recipe.count(tokens, vocab_size)
    if not asked.with_counts:
        return counted, None
    return counted, CrossFit(
        tokens,
        vocab_size,
        recipe,
        block_size=asked.block_size,
        context_size=asked.context_size,
    )


def read_batch(training: Training, index: int) -> tuple[Tensor | Counted, ...]:
    """What the model is given for its index-th batch: tokens, targets, and counts if it joins any.

    Of the training text, counts must not be asked what they have been told: `CrossFit`.
    """
    config, device = training.config, training.machine.device.value
    where = {"batch_size": config.train.batch_size, "seed": config.train.seed}
    block_size = config.model.block_size
    tokens = training.dataset.train
    if training.cross_fit is None:
        idx_BT, targets_BT = batch(tokens, index, block_size=block_size, **where)
        return idx_BT.to(device), targets_BT.to(device)
    # Counts read what comes before the block too: half of what is read at once, as they will at a
    # new text's average place.
    before = min(config.model.context_size // 2, (len(tokens) - block_size) // 2)
    length = before + block_size
    idx_BS, targets_BS = batch(tokens, index, block_size=length, **where)
    starts_B = batch_starts(len(tokens) - length, index, **where) + before
    starts_B -= max(0, len(tokens) - config.model.counted_tokens)
    counted = training.cross_fit.counted(idx_BS, starts_B, block_size)
    parts = idx_BS, targets_BS[:, before:], *counted
    idx_BS, targets_BT, *counted = (part.to(device) for part in parts)
    return idx_BS, targets_BT, Counted(*counted)


def train_step(training: Training) -> StepMetrics:
    """One update from one batch (several, when gradients accumulate).

    Until the update itself nothing of the state is touched, and the update runs with signals
    held back: whenever an interrupt strikes, the state is that of a whole number of steps.
    Raises: NonFiniteLossError before the update.
    """
    started = time.perf_counter()
    config, model = training.config, training.model
    parts = config.train.gradient_accumulation
    scale = scale_at(config, training.step)
    model.train()
    model.zero_grad(set_to_none=True)
    losses: list[Tensor] = []
    with training_stream(training) as stream, runtime.deterministic(config.train.deterministic):
        for part in range(parts):
            _, loss = model(*read_batch(training, training.step * parts + part))
            if loss.requires_grad:  # counting alone has nothing to learn
                (loss / parts).backward()
            losses.append(loss.detach())
        clip = config.optimizer.gradient_clip
        moved = list(model.parameters())
        norm = nn.utils.clip_grad_norm_(moved, clip or math.inf) if moved else torch.zeros(())
        loss_nats, gradient_norm = (torch.stack(losses).sum() / parts).item(), norm.item()
        if not (math.isfinite(loss_nats) and math.isfinite(gradient_norm)):
            raise broken_step(training, losses, gradient_norm)
        with signals_held():
            training.optimizers.step(scale)
            training.step += 1
            stream.keep()
            seconds = time.perf_counter() - started
            training.seconds += seconds
            metrics = training.unfinished = StepMetrics(
                step=training.step,
                tokens=training.step * training.tokens_per_step,
                seconds=round(training.seconds, 4),
                train_loss=loss_nats,
                learning_rate_scale=scale,
                gradient_norm=gradient_norm,
                tokens_per_second=training.tokens_per_step / seconds,
            )
    return metrics


def broken_step(training: Training, losses: list[Tensor], norm: float) -> NonFiniteLossError:
    """The error of a step whose loss or gradient is NaN or infinite: where, and how to see it."""
    first = training.step * len(losses)
    found = [loss.item() for loss in losses]
    bad = next((i for i, loss in enumerate(found) if not math.isfinite(loss)), None)
    if bad is not None:
        where = f"batch {first + bad}: the loss is {found[bad]}"
    else:
        last = f" to {first + len(losses) - 1}" if len(losses) > 1 else ""
        where = f"batch {first}{last}: the gradient norm is {norm}"
    return NonFiniteLossError(
        f"step {training.step + 1}, {where}; nothing was updated, and the last good state is kept. "
        f"hornbook train --resume {training.folder.path} meets it again. Try a lower learning_rate "
        "and muon_learning_rate, or precision = 'float32'"
    )


def scale_at(config: Config, step: int) -> float:
    """The share of the full learning rates used by the step after `step` finished ones."""
    return learning_rate_scale(
        step,
        config.train.steps,
        warmup_fraction=config.optimizer.warmup_fraction,
        decay_fraction=config.optimizer.decay_fraction,
    )


def steps(training: Training) -> Generator[StepMetrics, None, None]:
    """Train to the end, yielding each step's metrics.

    Validation loss and a sample come every `eval_interval` steps and at the end, a checkpoint
    every `checkpoint_interval`. However the loop is left (a break, Ctrl-C, an error of the
    caller's) the state is saved, and `resume` goes on from the very step.
    Raises: NonFiniteLossError; CheckpointError when the disk refuses.
    """
    intervals = training.config.train
    with training.lock:
        # What a resumed run stands on is saved, and at step 0 there is nothing to save.
        saved = training.step
        try:
            while training.unfinished or not ended(training):
                metrics = training.unfinished or train_step(training)
                keep_pace(training, metrics)
                finished = training.pace.clock() if training.pace else 0.0
                at_end = training.step >= training.config.train.steps
                if at_end or training.step % intervals.eval_interval == 0:
                    metrics = replace(
                        metrics, val_loss=validation_loss(training), sample=write_sample(training)
                    )
                    save_if_best(training, metrics.val_loss)
                record(training, metrics)
                if at_end or training.step % intervals.checkpoint_interval == 0:
                    save_last(training)
                    saved = training.step
                if training.pace and metrics.val_loss is not None:
                    training.pace.evaluation_seconds = training.pace.clock() - finished
                yield metrics
            if training.step != saved:
                save_last(training)
        except (KeyboardInterrupt, SystemExit, GeneratorExit, NonFiniteLossError):
            if training.step != saved:
                save_last(training)
            raise


def ended(training: Training) -> bool:
    """Whether all steps are taken, or the last `patience` evaluations brought nothing better."""
    train = training.config.train
    if training.step >= train.steps or not train.patience or training.step % train.eval_interval:
        return training.step >= train.steps
    return evaluations_since_best(curve(training.folder.metrics_rows())) >= train.patience


def keep_pace(training: Training, metrics: StepMetrics) -> None:
    """Plan more steps or fewer, where the run has a time to end at."""
    if training.pace is None:
        return
    training.pace.took(training.tokens_per_step / metrics.tokens_per_second)
    train = training.config.train
    planned = training.pace.steps(training.step, train.steps, train.eval_interval)
    if planned != train.steps:
        training.config = training.config.override(steps=max(1, planned))


def train(
    config: Config | None = None,
    *,
    out: str | Path | None = None,
    resume_from: str | Path | None = None,
    disk: Disk = DISK,
) -> Generator[StepMetrics, None, None]:
    """Train a model, or go on training one: a generator of step metrics.

    `out` names the run folder (``runs/<corpus>-<n>`` unless given), for `hornbook.load`.
    Raises: ConfigError, DataError, CheckpointError, NonFiniteLossError.
    """
    training = resume(resume_from, disk=disk) if resume_from else begin(config, out=out, disk=disk)
    yield from steps(training)


def validation_loss(training: Training) -> float:
    """The estimate that "best" goes by: over the same evenly spaced blocks each time."""
    return estimate(
        training.model,
        training.dataset.validation,
        block_size=training.config.model.context_size,
        max_positions=training.config.train.eval_positions,
    )


def write_sample(training: Training) -> str:
    """A short sample of the present model; the training stream is not disturbed."""
    pieces = generate.stream(
        snapshot(training.model),
        training.dataset.tokenizer,
        max_new_tokens=training.config.train.sample_tokens,
        sampling=SamplingConfig(temperature=0.8),
        seed=training.config.train.seed,
    )
    return "".join(pieces)
