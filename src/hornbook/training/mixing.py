"""A run's mixer: its first pass beside what leaves a core free, and its end after training."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from hornbook import cores
from hornbook.kernels import NativeUnavailableError
from hornbook.language import msg
from hornbook.models.first_pass import FirstPass
from hornbook.models.mixing import Mixing
from hornbook.runs.load import NoMixerWarning, load, mixer_path, save_mixer
from hornbook.storage import checkpoint

if TYPE_CHECKING:
    from hornbook.config import Config
    from hornbook.text.dataset import Dataset
    from hornbook.training.trainer import Trainer


def first_pass(
    config: Config, dataset: Dataset, begun: FirstPass | None = None
) -> FirstPass | None:
    """Read a run's text, where it has a mixer, or go on with what was `begun` if it is the same."""
    model = config.model
    held_out = model.held_out(len(dataset.train))
    wanted = dataset.tokenizer, dataset.train[-model.counted_tokens :], held_out
    if begun and held_out and begun.is_of(*wanted):
        begun.go_on()
        return begun
    if begun:
        begun.stop()
    return FirstPass(*wanted) if held_out else None


def make_room(trainer: Trainer) -> None:
    """Leave the cores to the steps, where they use all: a third thread on two costs more.

    But where no time is left to read all of the text, more text is worth more than more steps.
    """
    first, on_cpu = trainer.first_pass, trainer.machine.device.value == "cpu"
    all_used = torch.get_num_threads() >= cores.usable(requested="").count
    if first and on_cpu and all_used and len(first.tokens) == len(trainer.dataset.train):
        first.pause()


def stop_reading(trainer: Trainer) -> None:
    """End the first pass, finished or not."""
    if trainer.first_pass:
        trainer.first_pass.stop()
        trainer.first_pass = None


def learn_mixer(trainer: Trainer) -> None:
    """Learn the mixer beside the best weights, and save it, where a run has one.

    Without a C compiler there is none, with a warning.
    Raises: CheckpointError when the disk refuses.
    """
    folder, dataset = trainer.folder, trainer.dataset
    if not trainer.config.model.held_out(len(dataset.train)):
        return
    if trainer.first_pass:
        trainer.first_pass.go_on()
    trained = load(folder.path, device=trainer.machine.device.value, mixed=False)
    if checkpoint.is_sound(mixer_path(folder, trained.step)):
        return
    trainer.ranks.rest()
    first = trainer.first_pass or first_pass(trainer.config, dataset)
    if first is None:
        return
    try:
        mixing = Mixing.learn(trained.model, first)
    except NativeUnavailableError as error:
        warnings.warn(
            msg("no mixer was learned: {error}", error=error), NoMixerWarning, stacklevel=3
        )
        return
    save_mixer(folder, trained.step, mixing.mixer, trainer.disk)
