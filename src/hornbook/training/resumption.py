"""Resumes a run: everything before its next step."""

import json
import warnings
from contextlib import suppress
from pathlib import Path

from hornbook.errors import CheckpointError, ConfigError, HornbookWarning
from hornbook.language import msg
from hornbook.plan import check_memory, machine
from hornbook.pretrained.find import open_source
from hornbook.pretrained.run_source import knowing
from hornbook.runs.folder import open_run, run_text, run_tokenizer, steps_never_saved
from hornbook.runs.load import load_checkpoint
from hornbook.storage import checkpoint
from hornbook.storage.disk import DISK, Disk, write_atomically
from hornbook.storage.lock import Lock
from hornbook.text.dataset import prepare
from hornbook.training.mixing import first_pass
from hornbook.training.reference import lasting_reference
from hornbook.training.start import Start
from hornbook.training.state import restore
from hornbook.training.trainer import Trainer, assemble, training_pace


class UnsavedStepsWarning(HornbookWarning):
    """Steps that a run has taken are in no checkpoint, and are taken again."""

    label = "warning"


def resume(
    path: str | Path,
    *,
    steps: int | None = None,
    training_seconds: float | None = None,
    strict: bool = False,
    text: str | None = None,
    disk: Disk = DISK,
    sharded: bool = False,
) -> Trainer:
    """A run as its last checkpoint left it; `steps` extends it.

    With `sharded` weights, which the run's settings spread over ranks, are yet to come:
    `training.sharded` reads them, each rank its part.
    `text` says where the run's text is now, if it was moved, and is remembered.

    The learning rate follows the new number of steps from there on. `training_seconds` is as for
    `begin`, and includes those before the stop. Where this machine may compute other bits, an
    OtherMachineWarning says so, and `strict` refuses. A run that was killed before its first
    checkpoint begins again, with an UnsavedStepsWarning.
    Raises: CheckpointError when the run is missing, damaged or in use, its checkpoints are gone, or
    its text has changed; ConfigError for fewer steps than planned.
    """
    folder = open_run(path)
    if folder.checkpoints.is_symlink():
        raise CheckpointError(
            msg(
                "{checkpoints}: a symbolic link, and a run writes only inside its own folder: "
                "move the checkpoints there",
                checkpoints=folder.checkpoints,
            )
        )
    lock = Lock(folder.path)
    lock.acquire()
    with suppress(OSError):  # Leftovers of a crash do no harm.
        disk.sweep(folder.path)
        disk.sweep(folder.checkpoints)
    planned = folder.settings()
    if steps is not None and steps < planned.train.steps:
        raise ConfigError(
            msg(
                "--steps {steps}: the run is planned for {planned} steps, and a plan can only "
                "be made longer",
                steps=steps,
                planned=planned.train.steps,
            )
        )
    saved = bool(checkpoint.folders(folder.checkpoints, "step"))
    if not saved and (lost := steps_never_saved(folder)):
        warning = msg(
            "{checkpoints}: no checkpoint is there, and none was due yet (every {interval:,} "
            "steps): training begins again at step 0, and the {lost:,} steps in metrics.jsonl are "
            "taken again",
            checkpoints=folder.checkpoints,
            interval=planned.train.checkpoint_interval,
            lost=lost,
        )
        warnings.warn(warning, UnsavedStepsWarning, stacklevel=2)
    config = planned if steps is None else planned.override(steps=steps, minutes=0.0, replanned="")
    if text:
        config = config.override(corpus=text)
    corpus = run_text(folder, config)
    if text:
        config = config.override(corpus=lasting_reference(text, corpus, folder, disk))
    dataset = prepare(corpus, config.data, run_tokenizer(folder))
    chosen = machine.choose_again(config)
    check_memory(config, chosen, dataset)
    learned = checkpoint.folders(folder.checkpoints, "mixer")
    first = None if learned else first_pass(config, dataset)
    trainer = assemble(config, chosen, corpus, dataset, folder, lock=lock, disk=disk)
    trainer.first_pass = first
    state = trainer.state
    if config.model.pretrained is not None:
        trainer.start = Start.of(folder.environment_facts())
        if not saved:
            knowing(open_source(config.model.pretrained), corpus).load_into(state.model)
    if saved:
        found = last_state(trainer, sharded=sharded and config.train.parallel == "fsdp")
        restore(trainer, found, strict=strict)
        if config.train.minutes or config.train.replanned or training_seconds:
            state.steps = found.state["steps"]  # the pace's last plan
    # A run limited by minutes has no pace any more: the time since its start says nothing.
    if training_seconds:
        trainer.pace = training_pace(trainer, training_seconds)
    done = state.step - (state.unfinished is not None)
    rows = [row for row in folder.metrics_rows() if row["step"] <= done]
    write_atomically(folder.metrics, "".join(json.dumps(row) + "\n" for row in rows).encode(), disk)
    if config != planned:
        folder.replace({folder.config: folder.toml(config)}, disk)
    return trainer


def last_state(trainer: Trainer, *, sharded: bool) -> checkpoint.Checkpoint:
    """A run's last checkpoint; of a `sharded` one all but the tensors, which ranks read later.

    Raises: CheckpointError when there is none.
    """
    folder = trainer.folder
    if not sharded:
        return load_checkpoint(folder, "last")
    found = checkpoint.newest_intact(folder.checkpoints, "step", checkpoint.read_state)
    trainer.resumed_from = folder.checkpoints / f"step-{found.step:08d}"
    return found
