"""The state of a training: what it is, kept on the disk, and put back from there."""

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from hornbook.config import Config
from hornbook.errors import CheckpointError, HornbookWarning, NonFiniteLossError
from hornbook.models import LanguageModel
from hornbook.models.crossfit import CrossFit
from hornbook.optim.optimizer import Optimizers
from hornbook.plan import Plan, machine
from hornbook.runs.run import Number, RunFolder, is_like, load_weights
from hornbook.storage import checkpoint
from hornbook.storage.disk import DISK, Disk, refused
from hornbook.storage.lock import Lock
from hornbook.storage.signals import signals_held
from hornbook.text.corpus import Corpus
from hornbook.text.dataset import Dataset
from hornbook.train.pace import Pace


class OtherMachineWarning(HornbookWarning):
    """A run goes on where its arithmetic may come out otherwise in the last bits."""


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
    lock: Lock
    step: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    cuda_random_state: Tensor | None = None
    cross_fit: CrossFit | None = None
    # The last step's, until its evaluation is done and its row written.
    unfinished: StepMetrics | None = None
    disk: Disk = DISK
    plan: Plan | None = None
    pace: Pace | None = None

    @property
    def tokens_per_step(self) -> int:
        """Tokens read in one step."""
        return self.config.tokens_per_step


Byte = Annotated[int, Meta(ge=0, le=255)]


class SavedState(TypedDict):
    """What a checkpoint's `state.json` has for `resume`, among other things."""

    seconds: Number
    best_loss: Number | None
    data_fingerprint: str
    machine: dict[str, str]
    random_state: list[Byte]
    cuda_random_state: list[Byte] | None
    unfinished: NotRequired[StepMetrics | None]


def check_state(state: dict[str, Any], folder: RunFolder) -> None:
    """See that a checkpoint's state can be gone on from.

    Raises: CheckpointError.
    """
    sound = is_like(state, SavedState)
    if sound:
        try:
            torch.Generator().set_state(torch.tensor(state["random_state"], dtype=torch.uint8))
        except (RuntimeError, TypeError):
            sound = False
    if not sound:
        raise CheckpointError(
            f"{folder.checkpoints}: the state of the last checkpoint is not one to go on from"
        )


def restore(training: Training, found: checkpoint.Checkpoint, *, strict: bool = False) -> None:
    """Put a run back into a checkpoint's state.

    Raises: CheckpointError when it is another run's, or `strict` and from an unlike machine.
    """
    state, folder = found.state, training.folder
    check_state(state, folder)
    # As recorded, both: a later version may take another fingerprint of the same data.
    if state["data_fingerprint"] != folder.environment_facts().get("data_fingerprint"):
        raise CheckpointError(
            f"{folder.checkpoints}: the checkpoint of step {found.step} belongs to a run on "
            "another text or tokenizer"
        )
    unlike = differences(state["machine"], circumstances(training))
    if unlike and strict:
        raise CheckpointError(f"{folder.path}: --strict, and {unlike}")
    if unlike:
        said = f"the bits may differ from here on: {unlike} (--strict refuses)"
        warnings.warn(said, OtherMachineWarning, stacklevel=3)
    load_weights(training.model, found.tensors["model"], folder)
    if found.step:  # before the first update there is no state
        training.optimizers.load_tensors(found.tensors["optimizer"])
    training.step = found.step
    training.seconds = state["seconds"]
    training.random_state = torch.tensor(state["random_state"], dtype=torch.uint8)
    if state["cuda_random_state"]:
        training.cuda_random_state = torch.tensor(state["cuda_random_state"], dtype=torch.uint8)
    if state.get("unfinished"):
        training.unfinished = msgspec.convert(state["unfinished"], StepMetrics)
    # A best that is damaged is chosen anew.
    best = checkpoint.folders(folder.checkpoints, "best")
    if state["best_loss"] is not None and any(map(checkpoint.is_sound, best)):
        training.best_loss = state["best_loss"]


def circumstances(training: Training) -> dict[str, str]:
    """All that the last bits of a run's arithmetic may hang on, beside its settings."""
    chosen, config = training.machine, training.config
    return {
        **machine.describe(),
        "device": chosen.device.value,
        "precision": chosen.precision.value,
        "compile": chosen.compile.value,
        "threads": str(torch.get_num_threads()),
        "deterministic": str(config.train.deterministic),
        "optimizer": config.optimizer.optimizer,
    }


def differences(then: dict[str, str], now: dict[str, str]) -> str:
    """What of two machines may change bits and is not alike, in words; empty where all is."""
    harmless = {"python", "safetensors", "tokenizers", "system", "cores"}
    if now["device"] != "cuda":
        harmless.add("gpu")
    unlike = (
        name for name in now if name not in harmless and now[name] != then.get(name, now[name])
    )
    return ", ".join(f"{name} was {then[name]}, is {now[name]}" for name in unlike)


def record(training: Training, metrics: StepMetrics) -> None:
    """Add a step's row to `metrics.jsonl`.

    Raises: CheckpointError when the disk refuses.
    """
    row = (json.dumps(asdict(metrics)) + "\n").encode()
    with signals_held():
        try:
            training.disk.append(training.folder.metrics, row)
        except OSError as error:
            raise refused(training.folder.metrics, len(row), error) from None
        training.unfinished = None


def save_if_best(training: Training, val_loss: float | None) -> None:
    """Keep the weights when their validation loss is the least so far."""
    if val_loss is None or not val_loss < training.best_loss:
        return
    with signals_held():
        training.best_loss = val_loss
        checkpoint.save(
            training.folder.checkpoints,
            "best",
            checkpoint.Checkpoint(
                training.step, {"model": model_tensors(training)}, {"val_loss": val_loss}
            ),
            disk=training.disk,
        )


def save_last(training: Training) -> None:
    """Keep all that an exact resume needs.

    Raises: NonFiniteLossError, and saves nothing, when the update has made the weights infinite:
    the state before is the last good one. CheckpointError when the disk refuses.
    """
    with signals_held():
        tensors = {"model": model_tensors(training), "optimizer": training.optimizers.tensors()}
        if not all(value.isfinite().all() for part in tensors.values() for value in part.values()):
            raise NonFiniteLossError(
                f"step {training.step}: the update left weights that are not finite; what was "
                f"saved before is kept. hornbook train --resume {training.folder.path} meets it "
                "again. Try a lower learning_rate and muon_learning_rate"
            )
        cuda, unfinished = training.cuda_random_state, training.unfinished
        state: dict[str, Any] = {
            "seconds": training.seconds,
            "steps": training.config.train.steps,
            "best_loss": training.best_loss if math.isfinite(training.best_loss) else None,
            "random_state": training.random_state.tolist(),
            "cuda_random_state": None if cuda is None else cuda.tolist(),
            "data_fingerprint": training.folder.environment_facts().get("data_fingerprint"),
            "machine": circumstances(training),
            "unfinished": None if unfinished is None else asdict(unfinished),
        }
        with suppress(OSError):  # Its rows are as durable as the state that they led to.
            training.disk.sync(training.folder.metrics)
        checkpoint.save(
            training.folder.checkpoints,
            "step",
            checkpoint.Checkpoint(training.step, tensors, state),
            keep_last=training.config.train.keep_last,
            disk=training.disk,
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
