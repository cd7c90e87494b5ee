"""The end of a run: its best weights are measured, and its figures saved."""

import json
from contextlib import suppress
from dataclasses import replace

from hornbook.eval.baselines import Baselines
from hornbook.language import msg
from hornbook.plan.costs import DYNAMIC_SHARE
from hornbook.runs.load import load
from hornbook.runs.result import Result, measure, peak_memory_mib
from hornbook.storage.disk import write_atomically
from hornbook.training.pace import Replay
from hornbook.training.trainer import Trainer


def steps_why(trainer: Trainer) -> str:
    """Why the run took as many steps as it did, in one sentence's words."""
    train, taken, pace = trainer.config.train, trainer.state.step, trainer.pace
    if taken < trainer.state.steps and train.patience:
        return msg("no improvement in {number} evaluations", number=train.patience)
    if taken == train.steps:
        why = msg("as planned")
    elif pace is not None and trainer.plan is not None:
        planned = 1e3 * max(0.0, pace.planned_seconds) / train.steps
        took = 1e3 * pace.seconds_of(taken)
        why = msg(
            "a step took {took:.3g} ms with evaluations, and {planned:.3g} ms were planned",
            took=took,
            planned=planned,
        )
    else:
        why = msg("as many as its time allowed")
    if trainer.planned_anew:
        why = msg("{why}; planned anew, because the first plan was far off", why=why)
    return why


def dynamic_seconds(trainer: Trainer) -> float | None:
    """The seconds for the dynamic evaluation of a run limited by time; None for any other."""
    if trainer.pace is None or isinstance(trainer.pace, Replay):
        return None
    minutes = trainer.config.train.minutes
    return DYNAMIC_SHARE * (60 * minutes or trainer.state.seconds)


def conclude(
    trainer: Trainer, baselines: Baselines | None = None, *, energy_joules: float | None = None
) -> Result:
    """Measure the best weights, count the baselines, and save the sample and the figures.

    `baselines` are those of the same text and tokens, where they have been counted already.
    Raises: CheckpointError when the run cannot be loaded, or another process is training it.
    """
    folder = trainer.folder
    with trainer.lock:
        # All is saved, and the best weights are about to be loaded.
        trainer.state.release()
        if trainer.sharded:
            trainer.sharded, trainer.ranks.sharded = None, False
        result = measure(
            load(folder.path, device=trainer.machine.device.value),
            trainer.corpus,
            trainer.dataset,
            steps=trainer.state.step,
            seconds=trainer.state.seconds,
            baselines=baselines,
            split=trainer.split,
            peak_memory_mib=peak_memory_mib(),
            energy_joules=energy_joules,
            steps_why=steps_why(trainer),
            dynamic_seconds=dynamic_seconds(trainer),
            ranks=trainer.ranks,
        )
        if trainer.start:
            result = replace(result, pretrained=trainer.start.compared(result))
        with suppress(OSError):  # what several ranks shared
            trainer.disk.sweep(folder.checkpoints)
        write_atomically(folder.sample, f"{result.sample}\n".encode("utf-8", "replace"))
        write_atomically(folder.result, json.dumps(result.as_dict(), indent=1).encode())
    return result
