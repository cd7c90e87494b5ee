"""The state of a training: all that changes from step to step, saved and restored exactly."""

from __future__ import annotations

import json
import math
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from hornbook.errors import CheckpointError, HornbookWarning, NonFiniteLossError, command
from hornbook.kernels.runtime import give_back_freed_memory, signals_held
from hornbook.language import joined, msg
from hornbook.plan import machine
from hornbook.runs.folder import Number, is_like
from hornbook.runs.load import load_weights
from hornbook.storage import checkpoint
from hornbook.storage.disk import refused

if TYPE_CHECKING:
    from hornbook.models.language_model import LanguageModel
    from hornbook.optim.optimizer import Optimizers
    from hornbook.training.trainer import Trainer


class OtherMachineWarning(HornbookWarning):
    """A resumed run's arithmetic may differ in the last bits from here on."""


@dataclass(frozen=True)
class StepMetrics:
    """What one training step measured. Losses in nats per token."""

    step: int
    tokens: int
    seconds: float
    train_loss: float
    learning_rate_scale: float
    gradient_norm: float
    tokens_per_second: float
    steps: int | None = None  # how many were planned when it was taken
    val_loss: float | None = None
    sample: str | None = None
    prompt: str | None = None  # what the sample follows: a line of the validation part


@dataclass
class TrainState:
    """What a checkpoint holds. `steps` is how many there are to be, as planned by now."""

    model: LanguageModel
    optimizers: Optimizers
    random_state: Tensor
    steps: int
    step: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    cuda_random_state: Tensor | None = None
    # The last step's metrics, until it is evaluated and its row written.
    unfinished: StepMetrics | None = None

    def release(self) -> None:
        """Give the memory of weights and optimizers back, once all is saved; no step can follow."""
        self.optimizers.forget()
        for parameter in self.model.parameters():
            parameter.grad = None
            if not hasattr(parameter, "to_local"):  # FSDP holds its own, a part of them
                parameter.data = parameter.data.new_empty(0)
        give_back_freed_memory()


Byte = Annotated[int, Meta(ge=0, le=255)]


class SavedState(TypedDict):
    """What `resume` reads from a checkpoint's `state.json`."""

    seconds: Number
    best_loss: Number | None
    data_fingerprint: str
    machine: dict[str, str]
    random_state: list[Byte]
    cuda_random_state: list[Byte] | None
    unfinished: NotRequired[StepMetrics | None]


def restore(trainer: Trainer, found: checkpoint.Checkpoint, *, strict: bool = False) -> None:
    """Put a training into a checkpoint's state.

    Raises: CheckpointError when it is another run's, or `strict` and from a different machine.
    """
    saved, folder, state = found.state, trainer.folder, trainer.state
    try:
        sound = is_like(saved, SavedState)
        random_state = torch.tensor(saved["random_state"] if sound else (), dtype=torch.uint8)
        torch.Generator().set_state(random_state)
    except (RuntimeError, TypeError):
        raise CheckpointError(
            msg(
                "{checkpoints}: the state of the last checkpoint is not one to resume from",
                checkpoints=folder.checkpoints,
            )
        ) from None
    # Compared as recorded: a later version may compute another fingerprint of the same data.
    if saved["data_fingerprint"] != folder.environment_facts().get("data_fingerprint"):
        raise CheckpointError(
            msg(
                "{checkpoints}: the checkpoint of step {step} belongs to a run on another text "
                "or tokenizer",
                checkpoints=folder.checkpoints,
                step=found.step,
            )
        )
    unlike = differences(saved["machine"], circumstances(trainer))
    if unlike and strict:
        raise CheckpointError(
            msg("{path}: --strict, and {unlike}", path=folder.path, unlike=unlike)
        )
    if unlike:
        warning = msg(
            "the bits may differ from here on: {unlike} (--strict refuses)", unlike=unlike
        )
        warnings.warn(warning, OtherMachineWarning, stacklevel=3)
    if found.tensors:
        load_weights(state.model, found.tensors["model"], folder)
    if found.tensors and found.step:  # before the first update the optimizers have no state
        state.optimizers.load_tensors(found.tensors["optimizer"])
    state.step = found.step
    state.seconds = saved["seconds"]
    state.random_state = random_state
    if saved["cuda_random_state"]:
        state.cuda_random_state = torch.tensor(saved["cuda_random_state"], dtype=torch.uint8)
    if saved.get("unfinished"):
        state.unfinished = msgspec.convert(saved["unfinished"], StepMetrics)
    # A damaged best is chosen anew.
    best = checkpoint.folders(folder.checkpoints, "best")
    if saved["best_loss"] is not None and any(map(checkpoint.is_sound, best)):
        state.best_loss = saved["best_loss"]


def circumstances(trainer: Trainer) -> dict[str, str]:
    """Everything but the settings that the last bits of a run may depend on."""
    chosen, config = trainer.machine, trainer.config
    return {
        **machine.describe(),
        "device": chosen.device.value,
        "precision": chosen.precision.value,
        "compile": chosen.compile.value,
        "threads": str(torch.get_num_threads()),
        "deterministic": str(config.train.deterministic),
        "optimizer": config.optimizer.optimizer,
        "ranks": str(chosen.ranks),
    }


def differences(then: dict[str, str], now: dict[str, str]) -> str:
    """The differences between two machines that may change bits, in words; empty without any."""
    harmless = {"python", "safetensors", "tokenizers", "system", "cores"}
    if now["device"] != "cuda":
        harmless.add("gpu")
    unlike = (
        name for name in now if name not in harmless and now[name] != then.get(name, now[name])
    )
    found = [
        msg("{name} was {then}, is {now}", name=name, then=then[name], now=now[name])
        for name in unlike
    ]
    return joined(", ", found) if found else ""


def record(trainer: Trainer, metrics: StepMetrics) -> None:
    """Append a step's row to `metrics.jsonl`.

    Raises: CheckpointError when the disk refuses.
    """
    row = (json.dumps(asdict(metrics)) + "\n").encode()
    with signals_held():
        try:
            trainer.disk.append(trainer.folder.metrics, row)
        except OSError as error:
            raise refused(trainer.folder.metrics, len(row), error) from None
        trainer.state.unfinished = None


def save_if_best(trainer: Trainer, val_loss: float) -> None:
    """Save the weights when their validation loss is the lowest so far."""
    state = trainer.state
    if not val_loss < state.best_loss:
        return
    with signals_held():
        begin_saving(trainer)
        state.best_loss = val_loss
        if trainer.sharded:
            save_shards(trainer, "best", {"val_loss": val_loss})
            return
        weights = {"model": trainer.saves.copy(state_dict(state.model))}
        made = checkpoint.Checkpoint(state.step, weights, {"val_loss": val_loss})
        trainer.saves.add(
            lambda: checkpoint.save(trainer.folder.checkpoints, "best", made, disk=trainer.disk)
        )


def save_last(trainer: Trainer) -> None:
    """Save all that an exact resume needs.

    Raises: NonFiniteLossError, saving nothing, when the update has made a weight infinite or NaN:
    the checkpoint before is the last good one. CheckpointError when the disk refuses.
    """
    state = trainer.state
    with signals_held():
        begin_saving(trainer)
        tensors: dict[str, dict[str, Tensor]] = {}
        if not trainer.sharded:
            tensors = whole_state(trainer)
        if not finite(trainer, tensors):
            raise NonFiniteLossError(
                msg(
                    "step {step}: the update left weights that are not finite; what was saved "
                    "before is kept. {command} meets it again. Try a lower learning_rate and "
                    "muon_learning_rate",
                    step=state.step,
                    command=command("train", "--resume", trainer.folder.path),
                )
            )
        cuda, unfinished = state.cuda_random_state, state.unfinished
        saved: dict[str, Any] = {
            "seconds": state.seconds,
            "steps": state.steps,
            "best_loss": state.best_loss if math.isfinite(state.best_loss) else None,
            "random_state": state.random_state.tolist(),
            "cuda_random_state": None if cuda is None else cuda.tolist(),
            "data_fingerprint": trainer.folder.environment_facts().get("data_fingerprint"),
            "machine": circumstances(trainer),
            "unfinished": None if unfinished is None else asdict(unfinished),
        }
        trainer.saves.add(lambda: sync_metrics(trainer))
        keep_last = trainer.config.train.keep_last
        if trainer.sharded:
            save_shards(trainer, "step", saved, keep_last=keep_last)
            return
        copies = {name: trainer.saves.copy(part) for name, part in tensors.items()}
        made = checkpoint.Checkpoint(state.step, copies, saved)
        trainer.saves.add(
            lambda: checkpoint.save(
                trainer.folder.checkpoints, "step", made, keep_last=keep_last, disk=trainer.disk
            )
        )


def begin_saving(trainer: Trainer) -> None:
    """Wait for the saves of an earlier step: the copies of two would be in memory.

    Raises: as `finish_saves`.
    """
    if trainer.saves.step != trainer.state.step:
        finish_saves(trainer)
    trainer.saves.begin(trainer.state.step)


def finish_saves(trainer: Trainer) -> None:
    """Wait until all that the run has saved is on the disk.

    Raises: CheckpointError when the disk has refused; RankError.
    """
    if trainer.sharded and trainer.saves.busy:
        from hornbook.training import sharded

        trainer.ranks.tell("settle")
        sharded.settle(trainer)
    trainer.saves.finish()


def sync_metrics(trainer: Trainer) -> None:
    """Make the rows as durable as the state that they led to."""
    with suppress(OSError):
        trainer.disk.sync(trainer.folder.metrics)


def whole_state(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    """All weights and the optimizer's state, that of other ranks too."""
    state = trainer.state
    if state.step:
        trainer.ranks.tell("gather")
        state.optimizers.gather()
    return {"model": state_dict(state.model), "optimizer": state.optimizers.tensors()}


def finite(trainer: Trainer, tensors: dict[str, dict[str, Tensor]]) -> bool:
    """Whether all of these, or all that the ranks have, are finite."""
    if not trainer.sharded:
        return all(is_finite(value) for part in tensors.values() for value in part.values())
    from hornbook.training.sharded import all_finite

    trainer.ranks.tell("finite")
    return all_finite(trainer)


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite; where their sum is, they are, at a fifth of the time."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def save_shards(trainer: Trainer, kind: str, facts: dict[str, Any], *, keep_last: int = 1) -> None:
    """Save a checkpoint by all ranks. Raises: CheckpointError, RankError."""
    from hornbook.training import sharded

    trainer.ranks.tell("save", kind=kind)
    sharded.save(trainer, kind, facts, keep_last=keep_last)


def state_dict(model: LanguageModel) -> dict[str, Tensor]:
    """The weights by name, to be saved at once; a tied table stands under each of its names."""
    return {name: value.detach() for name, value in model.state_dict().items()}
