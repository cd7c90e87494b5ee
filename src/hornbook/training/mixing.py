"""What follows the last step of a network that has a mixer."""

import warnings

from hornbook.kernels import NativeUnavailableError
from hornbook.models.mixing import Mixing
from hornbook.runs.load import NoMixerWarning, load, mixer_path, save_mixer
from hornbook.storage import checkpoint
from hornbook.training.trainer import Trainer


def learn_mixer(trainer: Trainer) -> None:
    """Learn the mixer beside the best weights, and save it, where a run has one.

    Without a C compiler there is none, with a warning.
    Raises: CheckpointError when the disk refuses.
    """
    folder, dataset, model = trainer.folder, trainer.dataset, trainer.config.model
    held_out = model.held_out(len(dataset.train))
    if not held_out:
        return
    trained = load(folder.path, device=trainer.machine.device.value, mixed=False)
    if checkpoint.is_sound(mixer_path(folder, trained.step)):
        return
    trainer.ranks.rest()
    tokens = dataset.train[-model.counted_tokens :]
    # Of few it must count some before it learns, from others, how far to trust the network.
    held_out = min(held_out, len(tokens) // 2)
    try:
        mixing = Mixing.learn(trained.model, trained.tokenizer, tokens, held_out)
    except NativeUnavailableError as error:
        warnings.warn(f"no mixer was learned: {error}", NoMixerWarning, stacklevel=3)
        return
    save_mixer(folder, trained.step, mixing.mixer, trainer.disk)
