"""Training: a step is a function of the state and its batches; a run is a generator of steps."""

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hornbook import checkpoint, generate, machine
from hornbook.config import Config, SamplingConfig, laptop, load_config
from hornbook.counting import NGramModel
from hornbook.data import Dataset, batch, batch_starts, check_length, prepare
from hornbook.errors import ConfigError, NonFiniteLossError
from hornbook.evaluation import estimate
from hornbook.models import GPT, LanguageModel, build
from hornbook.models.crossfit import CrossFit
from hornbook.models.ngram import Counted
from hornbook.optimizer import Optimizers, learning_rate_scale
from hornbook.run import (
    RunFolder,
    check_same_text,
    load_checkpoint,
    load_weights,
    new_run_path,
    open_run,
    save_counts,
)
from hornbook.text import CATALOGUE, Corpus, read_corpus
from hornbook.tokenizer import load_tokenizer
from hornbook.tuning import choose


@dataclass(frozen=True)
class StepMetrics:
    """What one step of training showed. Losses in nats per token."""

    step: int
    tokens: int
    seconds: float
    train_loss: float
    learning_rate_scale: float
    gradient_norm: float
    tokens_per_second: float
    val_loss: float | None = None
    sample: str | None = None


@dataclass
class Training:
    """A run under way: what changes from step to step, beside what does not."""

    folder: RunFolder
    config: Config
    machine: machine.Machine
    corpus: Corpus
    dataset: Dataset
    model: LanguageModel
    optimizers: Optimizers
    random_state: Tensor
    step: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    cuda_random_state: Tensor | None = None
    cross_fit: CrossFit | None = None

    @property
    def tokens_per_step(self) -> int:
        """Tokens read in one step."""
        train = self.config.train
        return train.batch_size * train.gradient_accumulation * self.config.model.block_size


def begin(
    config: Config | None = None, *, out: str | Path | None = None, corpus: Corpus | None = None
) -> Training:
    """Read the text, make the run folder, build the model: all but the first step.

    `corpus` is the text that the settings name, where it has been read already.
    Raises: ConfigError, DataError.
    """
    config = config or laptop()
    corpus = corpus or read_corpus(config.data.corpus, encoding=config.data.encoding)
    if config.model.model == "ngram" and config.train.steps > 1:
        raise ConfigError(f"steps = {config.train.steps}: counting is done in 1 step")
    chosen = machine.choose(config.train)
    dataset = prepare(corpus, config.data)
    for tokens, part in ((dataset.train, "training"), (dataset.validation, "validation")):
        check_length(tokens, config.model.block_size if part == "training" else 1, part)
    folder = RunFolder(Path(out) if out else new_run_path(corpus.name))
    folder.create()
    config = config.override(
        corpus=lasting_reference(config.data.corpus, corpus, folder),
        device=chosen.device.value,
        precision=chosen.precision.value,
        compile=chosen.compile.value,
        threads=chosen.threads,
    )
    training = assemble(config, chosen, corpus, dataset, folder)
    environment = {
        **machine.describe(),
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        "data_fingerprint": dataset.fingerprint,
        "parameters": training.model.parameter_count,
    }
    checkpoint.write_atomically(folder.tokenizer, dataset.tokenizer.to_json().encode())
    checkpoint.write_atomically(folder.environment, json.dumps(environment, indent=1).encode())
    # Last, because its presence is what makes the folder a run.
    checkpoint.write_atomically(folder.config, config.to_toml().encode())
    return training


def lasting_reference(asked: str, corpus: Corpus, folder: RunFolder) -> str:
    """A name for the text that finds it again later, from any directory.

    What came on standard input cannot be read twice, so the run keeps a copy.
    """
    if asked == "-":
        kept = folder.path / "input.txt"
        checkpoint.write_atomically(kept, corpus.text.encode())
        return str(kept.resolve())
    by_name = any(asked in (known.name, *known.aliases) for known in CATALOGUE)
    path = Path(asked).expanduser()
    return asked if by_name or not path.exists() else str(path.resolve())


def resume(path: str | Path) -> Training:
    """A run as its last checkpoint left it.

    Raises: CheckpointError when the run is missing or damaged, or its text has changed.
    """
    folder = open_run(path)
    config = load_config(folder.config)
    corpus = read_corpus(config.data.corpus, encoding=config.data.encoding)
    check_same_text(corpus, folder)
    dataset = prepare(corpus, config.data, load_tokenizer(folder.tokenizer))
    training = assemble(config, machine.choose(config.train), corpus, dataset, folder)
    if checkpoint.folders(folder.checkpoints, "step"):
        found = load_checkpoint(folder, "last")
        load_weights(training.model, found.tensors["model"], folder)
        training.optimizers.load_tensors(found.tensors["optimizer"])
        training.step = found.step
        training.seconds = found.state["seconds"]
        training.best_loss = found.state["best_loss"] or math.inf
        training.random_state = torch.tensor(found.state["random_state"], dtype=torch.uint8)
        if found.state["cuda_random_state"]:
            training.cuda_random_state = torch.tensor(
                found.state["cuda_random_state"], dtype=torch.uint8
            )
    rows = [row for row in folder.metrics_rows() if row["step"] <= training.step]
    checkpoint.write_atomically(
        folder.metrics, "".join(json.dumps(row) + "\n" for row in rows).encode()
    )
    return training


def assemble(
    config: Config,
    chosen: machine.Machine,
    corpus: Corpus,
    dataset: Dataset,
    folder: RunFolder,
) -> Training:
    """Model and optimizers at step 0, on the chosen device, compiled if chosen.

    What counts it needs are counted here, and kept in the folder.
    """
    counted, cross_fit = count(config, dataset) if config.model.reads_counts else (None, None)
    if counted:
        save_counts(folder, counted)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        model = build(config.model, dataset.tokenizer.vocab_size, counted)
        random_state = torch.get_rng_state()
    model.to(chosen.device.value)
    for part in model.modules():
        if isinstance(part, LanguageModel):
            part.compute_dtype = chosen.compute_dtype
        # One block at a time: all blocks share one compiled form. 23 s to the first step against
        # 40 s for the whole model, which then is 12% quicker: worth it after a thousand steps.
        if isinstance(part, GPT) and chosen.compile.value == "on":
            for block in part.blocks:
                block.compile()
    return Training(
        folder=folder,
        config=config,
        machine=chosen,
        corpus=corpus,
        dataset=dataset,
        model=model,
        optimizers=Optimizers(model, config.optimizer),
        random_state=random_state,
        cross_fit=cross_fit,
    )


def count(config: Config, dataset: Dataset) -> tuple[NGramModel, CrossFit | None]:
    """The training text counted, and, for a network beside it, counted without each part in turn.

    A function of settings and text: a resumed run counts again.
    Raises: DataError for a text too short.
    """
    tokens, vocab_size, asked = dataset.train, dataset.tokenizer.vocab_size, config.model
    recipe = choose(
        tokens, vocab_size, order=asked.order, smoothing=asked.smoothing, add_k=asked.add_k
    )
    counted = recipe.count(tokens, vocab_size)
    if not asked.with_counts:
        return counted, None
    return counted, CrossFit(tokens, vocab_size, recipe, block_size=asked.block_size)


def read_batch(training: Training, index: int) -> tuple[Tensor | Counted, ...]:
    """What the model is given for its index-th batch: tokens, targets, and counts if it joins any.

    Of the training text, counts must not be asked what they have been told: `CrossFit`.
    """
    config, device = training.config, training.machine.device.value
    where = {"batch_size": config.train.batch_size, "seed": config.train.seed}
    block_size = config.model.block_size
    tokens = training.dataset.train
    idx_BT, targets_BT = batch(tokens, index, block_size=block_size, **where)
    pair = idx_BT.to(device), targets_BT.to(device)
    if training.cross_fit is None:
        return pair
    starts_B = batch_starts(len(tokens) - block_size, index, **where)
    counted = training.cross_fit.counted(idx_BT, starts_B)
    return *pair, Counted(*(each.to(device) for each in counted))


def train_step(training: Training) -> tuple[float, float]:
    """One update from one batch (several, when gradients accumulate): mean loss, gradient norm.

    Until the update itself nothing of the state is touched, and the update runs with signals
    held back: whenever an interrupt strikes, the state is that of a whole number of steps.
    Raises: NonFiniteLossError before the update.
    """
    config, model = training.config, training.model
    parts = config.train.gradient_accumulation
    model.train()
    model.zero_grad(set_to_none=True)
    with training_stream(training) as stream:
        total = torch.zeros((), device=model.device)
        for part in range(parts):
            _, loss = model(*read_batch(training, training.step * parts + part))
            if loss.requires_grad:  # counting alone has nothing to learn
                (loss / parts).backward()
            total += loss.detach() / parts
        clip = config.optimizer.gradient_clip
        moved = list(model.parameters())
        norm = nn.utils.clip_grad_norm_(moved, clip or math.inf) if moved else torch.zeros(())
        loss_nats, gradient_norm = total.item(), norm.item()
        if not (math.isfinite(loss_nats) and math.isfinite(gradient_norm)):
            raise NonFiniteLossError(
                f"step {training.step + 1}: the loss is {loss_nats} and the gradient norm "
                f"{gradient_norm}; nothing was updated, and what was saved before is kept. "
                "Try a lower learning_rate and muon_learning_rate, or precision = 'float32'"
            )
        with signals_held():
            training.optimizers.step(scale_at(training.config, training.step))
            training.step += 1
            stream.keep()
    return loss_nats, gradient_norm


def scale_at(config: Config, step: int) -> float:
    """The share of the full learning rates used by the step after `step` finished ones."""
    return learning_rate_scale(
        step,
        config.train.steps,
        warmup_fraction=config.optimizer.warmup_fraction,
        decay_fraction=config.optimizer.decay_fraction,
    )


def steps(training: Training) -> Iterator[StepMetrics]:
    """Train to the end, yielding each step's metrics.

    Validation loss and a sample come every `eval_interval` steps and at the end, a checkpoint
    every `checkpoint_interval`. However the loop is left (a break, Ctrl-C, an error of the
    caller's) the state is saved, and `resume` goes on from the very step.
    Raises: NonFiniteLossError; CheckpointError when the disk refuses.
    """
    config, folder = training.config, training.folder
    saved = -1
    with folder.metrics.open("a", encoding="utf-8") as log:
        try:
            while training.step < config.train.steps:
                started = time.perf_counter()
                scale = scale_at(config, training.step)
                train_loss, gradient_norm = train_step(training)
                step_seconds = time.perf_counter() - started
                training.seconds += step_seconds
                at_end = training.step == config.train.steps
                metrics = StepMetrics(
                    step=training.step,
                    tokens=training.step * training.tokens_per_step,
                    seconds=round(training.seconds, 4),
                    train_loss=train_loss,
                    learning_rate_scale=scale,
                    gradient_norm=gradient_norm,
                    tokens_per_second=training.tokens_per_step / step_seconds,
                )
                if at_end or training.step % config.train.eval_interval == 0:
                    metrics = replace(
                        metrics, val_loss=validation_loss(training), sample=write_sample(training)
                    )
                log.write(json.dumps(asdict(metrics)) + "\n")
                if metrics.val_loss is not None:
                    log.flush()
                    save_if_best(training, metrics.val_loss)
                if at_end or training.step % config.train.checkpoint_interval == 0:
                    save_last(training)
                    saved = training.step
                yield metrics
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            if training.step != saved:
                save_last(training)
            raise


def train(
    config: Config | None = None,
    *,
    out: str | Path | None = None,
    resume_from: str | Path | None = None,
) -> Iterator[StepMetrics]:
    """Train a model, or go on training one: a generator of step metrics.

    `out` names the run folder (``runs/<corpus>-<n>`` unless given), for `hornbook.load`.
    Raises: ConfigError, DataError, CheckpointError, NonFiniteLossError.
    """
    yield from steps(resume(resume_from) if resume_from else begin(config, out=out))


def validation_loss(training: Training) -> float:
    """The estimate that "best" goes by: over the same evenly spaced blocks each time."""
    return estimate(
        training.model,
        training.dataset.validation,
        block_size=training.config.model.block_size,
        max_positions=training.config.train.eval_positions,
    )


def write_sample(training: Training) -> str:
    """A short sample of the present model; the training stream is not disturbed."""
    pieces = generate.stream(
        training.model,
        training.dataset.tokenizer,
        max_new_tokens=training.config.train.sample_tokens,
        sampling=SamplingConfig(temperature=0.8),
        seed=training.config.train.seed,
    )
    return "".join(pieces)


def save_if_best(training: Training, val_loss: float) -> None:
    """Keep the weights when their validation loss is the least so far."""
    if not val_loss < training.best_loss:
        return
    with signals_held():
        training.best_loss = val_loss
        checkpoint.save(
            training.folder.checkpoints,
            "best",
            checkpoint.Checkpoint(
                training.step, {"model": model_tensors(training)}, {"val_loss": val_loss}
            ),
        )


def save_last(training: Training) -> None:
    """Keep all that an exact resume needs."""
    cuda = training.cuda_random_state
    state: dict[str, Any] = {
        "seconds": training.seconds,
        "best_loss": training.best_loss if math.isfinite(training.best_loss) else None,
        "random_state": training.random_state.tolist(),
        "cuda_random_state": None if cuda is None else cuda.tolist(),
        "data_fingerprint": training.dataset.fingerprint,
        "machine": machine.describe(),
    }
    tensors = {"model": model_tensors(training), "optimizer": training.optimizers.tensors()}
    with signals_held():
        checkpoint.save(
            training.folder.checkpoints,
            "step",
            checkpoint.Checkpoint(training.step, tensors, state),
        )


def model_tensors(training: Training) -> dict[str, Tensor]:
    """The weights by name; a tied table is saved once for each of its names."""
    return {name: value.detach().clone() for name, value in training.model.state_dict().items()}


class Stream:
    """The training's own random stream while it is switched in."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def keep(self) -> None:
        """Make the present place in the stream the one the next step starts from."""
        self.training.random_state = torch.get_rng_state()
        if self.training.machine.device.value == "cuda":
            self.training.cuda_random_state = torch.cuda.get_rng_state()


@contextmanager
def training_stream(training: Training) -> Iterator[Stream]:
    """Draw from the training's stream inside, and leave the caller's stream as it was."""
    on_gpu = training.machine.device.value == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
        torch.set_rng_state(training.random_state)
        if on_gpu and training.cuda_random_state is not None:
            torch.cuda.set_rng_state(training.cuda_random_state)
        elif on_gpu:
            torch.cuda.manual_seed(training.config.train.seed)
        yield Stream(training)


@contextmanager
def signals_held() -> Iterator[None]:
    """Let the body finish before SIGINT, SIGTERM or SIGHUP takes effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    previous = {
        number: signal.signal(number, lambda received, _: held.append(received))
        for name in names
        if signal.getsignal(number := getattr(signal, name)) is not None
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])
