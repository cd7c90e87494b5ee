"""Loads a run: its settings, tokenizer, weights and n-grams, as a trained model."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from hornbook.errors import CheckpointError, DataError, HornbookWarning
from hornbook.infer.engine import Engine
from hornbook.language import msg
from hornbook.ngram.model import NGramModel
from hornbook.runs.folder import open_run, run_text, run_tokenizer
from hornbook.storage import checkpoint
from hornbook.storage.disk import DISK, Disk

# Imported where they are used: without torch a run can be loaded for generation.
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import torch

    from hornbook.config import Config, ModelConfig
    from hornbook.eval.baselines import Floats
    from hornbook.eval.dynamic import Logits
    from hornbook.eval.loss import Evaluation
    from hornbook.models.language_model import LanguageModel
    from hornbook.models.mixer import Mixer
    from hornbook.runs.folder import RunFolder
    from hornbook.text.arrays import Tokens
    from hornbook.text.dataset import Dataset, Mask
    from hornbook.text.tokenizer import Tokenizer


class NoMixerWarning(HornbookWarning):
    """A run's mixer cannot be used here: its network and n-grams predict alone."""

    label = "warning"


Found = TypeVar("Found", checkpoint.Checkpoint, checkpoint.Arrays)


@dataclass(frozen=True)
class TrainedModel:
    """A model with its tokenizer and settings, as `hb.load` returns it."""

    model: LanguageModel
    tokenizer: Tokenizer
    config: Config
    step: int
    folder: RunFolder

    def engine(self, *, rows: int = 1) -> Engine:
        """An engine for up to `rows` texts together, with the weights as they are now."""
        return Engine.of(self.model, self.tokenizer, rows=rows)

    def generate(self, prompt: str = "", **settings: Any) -> str:
        """The text that follows a prompt.

        `settings` are those of `Engine.stream`: max_new_tokens (500), stop, seed, and the fields of
        SamplingConfig (temperature, top_k, top_p, min_p, repetition_penalty).
        Raises: UnknownCharacterError, ConfigError.
        """
        return "".join(self.stream(prompt, **settings))

    def stream(self, prompt: str = "", **settings: Any) -> Iterator[str]:
        """`generate` in pieces, as the text is made, with the weights as they are now."""
        from hornbook.text.forms import formed_text

        return self.engine().stream(formed_text(prompt, self.config.data), **settings)

    def evaluate(self) -> Evaluation:
        """The exact loss on the validation part of the run's own text.

        Raises: DataError; CheckpointError when the text has changed.
        """
        own = self.dataset()
        return self.evaluate_tokens(own.validation, answers=own.validation_answers)

    def dataset(self) -> Dataset:
        """The run's own text as tokens.

        Raises: DataError; CheckpointError when the text has changed.
        """
        from hornbook.text.dataset import prepare

        corpus = run_text(self.folder, self.config)
        return prepare(corpus, self.config.data, self.tokenizer)

    def evaluate_text(self, text: str) -> Evaluation:
        """The exact loss on all of another text.

        Raises: DataError; UnknownCharacterError for a text outside the vocabulary.
        """
        from hornbook.text.forms import formed_text

        fitted, _ = self.tokenizer.fit(formed_text(text, self.config.data))
        return self.evaluate_tokens(self.tokenizer.encode_array(fitted))

    def evaluate_dynamically(
        self,
        train: Tokens,
        tokens: Tokens,
        *,
        frozen: Floats | None = None,
        frozen_logits: Logits | None = None,
        answers: Mask | None = None,
        max_positions: int | None = None,
        seconds: float | None = None,
    ) -> Evaluation:
        """The loss on tokens that follow the training text, of a copy that learns as it reads.

        Of more than `max_positions`, or than fit into `seconds`, it is an estimate, a better one
        with the `frozen` model's loss at each token but the first; `frozen_logits` are what a
        resting network says. See `eval.dynamic`. The loss is that of the `answers`.
        Raises: DataError for an empty text.
        """
        from hornbook.eval.dynamic import MOST_EVALUATED, copied, evaluate_dynamically
        from hornbook.models.stack import StackModel
        from hornbook.plan.machine import choose_to_learn
        from hornbook.plan.prepare import prepare

        learner = copied(self.model)
        prepare(learner, choose_to_learn(self.config, self.model.device.type))
        if isinstance(learner, StackModel):
            learner.recompute = self.config.train.recompute
        return evaluate_dynamically(
            learner, self.config.model, self.tokenizer, train, tokens,
            frozen=frozen, frozen_logits=frozen_logits, answers=answers,
            max_positions=min(max_positions or MOST_EVALUATED, MOST_EVALUATED),
            seconds=seconds,
        )  # fmt: skip

    def evaluate_tokens(
        self, tokens: Tokens, *, max_positions: int | None = None, answers: Mask | None = None
    ) -> Evaluation:
        """The loss on tokens of this model's tokenizer, exact up to `max_positions` of them.

        Of conversations it is that of the `answers`.
        """
        from hornbook.eval.loss import evaluate

        return evaluate(
            self.model,
            self.tokenizer,
            tokens,
            block_size=self.config.model.context_size,
            max_positions=max_positions,
            answers=answers,
        )


def load(
    path: str | os.PathLike[str],
    *,
    which: Literal["best", "last"] = "best",
    device: str = "cpu",
    text: str | None = None,
    mixed: bool = True,
) -> TrainedModel:
    """The trained model of a run folder: its best weights, or its last.

    `text` says where the run's text is now, if it was moved. With `mixed=False` a mixer that was
    learned beside these weights is left out.
    Raises: CheckpointError when the run is missing, unfinished or damaged.
    """
    import torch

    from hornbook.kernels import NativeUnavailableError
    from hornbook.kernels.waiting import yield_when_busy
    from hornbook.models.lora import merge
    from hornbook.models.registry import build, use_ngram_kernels

    folder = open_run(path)
    config = folder.settings()
    config = config.override(corpus=text) if text else config
    tokenizer = run_tokenizer(folder)
    found = load_checkpoint(folder, which)
    counted = load_counts(folder, tokenizer) if config.model.reads_counts else None
    check_shapes(config.model, tokenizer, found.tensors["model"], folder, counted)
    yield_when_busy(torch.get_num_threads())
    model = build(config.model, tokenizer.vocab_size, counted)
    load_weights(model, found.tensors["model"], folder)
    if config.model.lora_rank is not None:
        merge(model)
    with suppress(NativeUnavailableError):
        use_ngram_kernels(model)
    model = model.eval().to(device)
    mixer = load_mixer(folder, tokenizer, found.step) if mixed else None
    if mixer:
        from hornbook.models.mixing import Mixing

        model = Mixing(model, mixer).eval()
    return TrainedModel(model, tokenizer, config, found.step, folder)


def save_counts(
    folder: RunFolder, counted: NGramModel, disk: Disk = DISK, *, kind: str = "counts"
) -> Path:
    """Save a run's n-gram model, once a run, as a checkpoint of step 0.

    Raises: CheckpointError when the disk refuses.
    """
    import torch

    # The tables are read in float32; more precision would only take more space.
    tensors = {
        name: torch.from_numpy(array.astype("float32") if array.dtype.kind == "f" else array)
        for name, array in counted.arrays().items()
    }
    made = checkpoint.Checkpoint(0, {"counts": tensors}, {})
    return checkpoint.save(folder.checkpoints, kind, made, disk=disk)


def load_counts(
    folder: RunFolder, tokenizer: Tokenizer, path: Path | None = None, *, n_models: int = 1
) -> NGramModel:
    """A run's n-gram model, or the `n_models` side by side that were saved at another `path`.

    Its tables are memory-mapped.
    Raises: CheckpointError when it is missing, damaged, or not of this tokenizer.
    """
    path = path or folder.counts
    try:
        arrays = checkpoint.read_tables(path, "counts")
        counted = NGramModel.from_arrays(arrays, n_models=n_models)
    except DataError as error:
        raise CheckpointError(msg("{path}: {error}", path=path, error=error)) from None
    if counted.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            msg(
                "{path}: the counts are of {vocab_size} different tokens, but tokenizer.json "
                "has {known}",
                path=path,
                vocab_size=counted.vocab_size,
                known=tokenizer.vocab_size,
            )
        )
    return counted


def mixer_path(folder: RunFolder, step: int) -> Path:
    """Where the mixer stands that was learned beside the weights of a step."""
    return folder.checkpoints / f"mixer-{step:08d}"


def save_mixer(folder: RunFolder, step: int, mixer: Mixer, disk: Disk = DISK) -> None:
    """Save a mixer beside the weights of a step that it was learned with.

    Raises: CheckpointError when the disk refuses.
    """
    import torch

    # Which only reads them; a mapped array is not writable.
    tensors = {name: torch.from_numpy(array) for name, array in mixer.arrays().items()}
    made = checkpoint.Checkpoint(step, {"mixer": tensors}, {})
    checkpoint.save(folder.checkpoints, "mixer", made, disk=disk)


def load_mixer(folder: RunFolder, tokenizer: Tokenizer, step: int) -> Mixer | None:
    """The mixer that was learned beside the weights of a step, where there is one.

    Without a C compiler, or where another version of hornbook learned it, there is none, with a
    warning.
    Raises: CheckpointError when it is damaged, or not of this tokenizer.
    """
    path = mixer_path(folder, step)
    if not path.exists():
        return None
    from hornbook.kernels import NativeUnavailableError
    from hornbook.models.mixer import Mixer, OtherFormatError

    try:
        mixer = Mixer.from_arrays(checkpoint.read_tables(path, "mixer"))
    except (NativeUnavailableError, OtherFormatError) as error:
        warnings.warn(
            msg("{path}: left out: {error}", path=path, error=error), NoMixerWarning, stacklevel=3
        )
        return None
    except CheckpointError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise CheckpointError(msg("{path}: {error}", path=path, error=error)) from None
    if mixer.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            msg(
                "{path}: the mixer is of {vocab_size} different tokens, but tokenizer.json has "
                "{known}",
                path=path,
                vocab_size=mixer.vocab_size,
                known=tokenizer.vocab_size,
            )
        )
    return mixer


def load_checkpoint(folder: RunFolder, which: Literal["best", "last"]) -> checkpoint.Checkpoint:
    """The best or last checkpoint; the last one where there is no best yet, or it is damaged.

    Raises: CheckpointError when there is none.
    """
    names = ("model",) if which == "best" else ("model", "optimizer")

    def complete(place: Path, kind: str) -> checkpoint.Checkpoint:
        found = checkpoint.load(place, kind)
        for name in names:
            if name not in found.tensors:
                raise CheckpointError(
                    msg("{place}: no {name}.safetensors in the checkpoint", place=place, name=name)
                )
        return found

    return best_or_last(folder, which, complete)


def load_arrays(folder: RunFolder, which: Literal["best", "last"]) -> checkpoint.Arrays:
    """The weights of `load_checkpoint` as numpy arrays, without torch.

    Raises: CheckpointError when there is none.
    """
    return best_or_last(folder, which, checkpoint.load_arrays)


def best_or_last(
    folder: RunFolder, which: Literal["best", "last"], load_kind: Callable[[Path, str], Found]
) -> Found:
    """The best or last checkpoint, read by `load_kind`; for a damaged best, a warning and the last.

    Raises: CheckpointError when there is none.
    """
    if which == "best" and checkpoint.folders(folder.checkpoints, "best"):
        try:
            return load_kind(folder.checkpoints, "best")
        except CheckpointError as error:
            last = load_kind(folder.checkpoints, "step")
            message = msg(
                "{error}; the last weights, of step {step}, are used instead",
                error=error,
                step=last.step,
            )
            warnings.warn(message, checkpoint.DamagedCheckpointWarning, stacklevel=3)
            return last
    return load_kind(folder.checkpoints, "step")


def check_shapes(
    config: ModelConfig,
    tokenizer: Tokenizer,
    tensors: dict[str, torch.Tensor],
    folder: RunFolder,
    counted: NGramModel | None = None,
) -> None:
    """Check weights against the model that the settings describe, before memory is allocated.

    Raises: CheckpointError with the first that differs.
    """
    from hornbook.models.registry import meta_model

    # One layer more than there are tensors is wrong already, however many more there should be.
    config = replace(config, n_layer=min(config.n_layer, len(tensors) + 1))
    try:
        model = meta_model(config, tokenizer.vocab_size, counted)
    except RuntimeError:  # more elements than 64 bits can count
        raise CheckpointError(
            msg("{path}: config.toml describes a model too large for any machine", path=folder.path)
        ) from None
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    found = {name: list(value.shape) for name, value in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                msg(
                    "{path}: the weights do not fit config.toml: expected {name!r} of shape "
                    "{expected}, found {found}",
                    path=folder.path,
                    name=name,
                    expected=expected.get(name),
                    found=found.get(name),
                )
            )


def load_weights(model: LanguageModel, tensors: dict[str, torch.Tensor], folder: RunFolder) -> None:
    """Copy saved weights into a model.

    Raises: CheckpointError when they are of another model.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            msg(
                "{path}: the weights do not fit config.toml: {error}",
                path=folder.path,
                error=" ".join(str(error).split()),
            )
        ) from None
