"""The end of a run: its best weights are measured, and its figures saved."""

import json

from hornbook.eval.baselines import Baselines
from hornbook.runs.load import load
from hornbook.runs.result import Result, measure, peak_memory_mib
from hornbook.storage.disk import write_atomically
from hornbook.training.trainer import Trainer


def conclude(
    trainer: Trainer, baselines: Baselines | None = None, *, energy_joules: float | None = None
) -> Result:
    """Measure the best weights, count the baselines, and save the sample and the figures.

    `baselines` are those of the same text and tokens, where they have been counted already.
    Raises: CheckpointError when the run cannot be loaded, or another process is training it.
    """
    folder = trainer.folder
    with trainer.lock:
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
        )
        write_atomically(folder.sample, (result.sample + "\n").encode())
        write_atomically(folder.result, json.dumps(result.as_dict(), indent=1).encode())
    return result
