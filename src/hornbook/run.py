"""The run folder: all that a training leaves behind, and the trained model loaded from it.

config.toml  environment.json  tokenizer.json  metrics.jsonl  checkpoints/  sample.txt  result.json
loss.png
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from hornbook import checkpoint, generate
from hornbook.config import Config, SamplingConfig, load_config
from hornbook.counting import NGramModel
from hornbook.data import Tokens, prepare
from hornbook.errors import CheckpointError, ConfigError, DataError
from hornbook.evaluation import Evaluation, evaluate
from hornbook.models import LanguageModel, build
from hornbook.text import Corpus, read_corpus
from hornbook.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class RunFolder:
    """The places in a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings, which can be run again."""
        return self.path / "config.toml"

    @property
    def environment(self) -> Path:
        """The machine, the versions, and the hashes of text and tokenizer."""
        return self.path / "environment.json"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer, in the format of the tokenizers library."""
        return self.path / "tokenizer.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The last and the best weights."""
        return self.path / "checkpoints"

    @property
    def sample(self) -> Path:
        """What the finished model wrote."""
        return self.path / "sample.txt"

    @property
    def result(self) -> Path:
        """The figures of the finished run, as `train --json` prints them."""
        return self.path / "result.json"

    @property
    def picture(self) -> Path:
        """The loss curves."""
        return self.path / "loss.png"

    def create(self) -> None:
        """Make the folder.

        Raises: ConfigError when it holds a run already, or cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            occupied = any(self.path.iterdir())
        except OSError as error:
            raise ConfigError(f"--out {self.path}: {error.strerror}") from None
        if occupied:
            raise ConfigError(
                f"--out {self.path}: the folder is not empty; name a new one, or go on with its "
                f"run by hornbook train --resume {self.path}"
            )

    def environment_facts(self) -> dict[str, Any]:
        """What `environment.json` says.

        Raises: CheckpointError when it cannot be read.
        """
        try:
            facts = json.loads(self.environment.read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.environment}: cannot be read: {error}") from None
        if not isinstance(facts, dict):
            raise CheckpointError(f"{self.environment}: expected a JSON object")
        return facts

    def metrics_rows(self) -> Iterator[dict[str, Any]]:
        """The rows of `metrics.jsonl`; a line torn by a crash is passed over."""
        if not self.metrics.exists():
            return
        with self.metrics.open(encoding="utf-8") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict) and isinstance(row.get("step"), int):
                    yield row


def new_run_path(corpus_name: str, parent: Path = Path("runs")) -> Path:
    """The first free ``runs/<corpus>-<n>``."""
    return next(path for n in count(1) if not (path := parent / f"{corpus_name}-{n}").exists())


def open_run(path: str | os.PathLike[str]) -> RunFolder:
    """A run folder that exists.

    Raises: CheckpointError saying what was expected, and which runs are near.
    """
    folder = RunFolder(Path(path))
    if folder.config.is_file():
        return folder
    near = [
        p.parent for p in (*folder.path.glob("*/config.toml"), *Path("runs").glob("*/config.toml"))
    ]
    hint = f"; runs here: {', '.join(str(p) for p in sorted(near)[:5])}" if near else ""
    raise CheckpointError(f"{path}: not a run folder (no config.toml in it){hint}")


@dataclass(frozen=True)
class TrainedModel:
    """A model with its tokenizer and settings: what `hb.load` gives."""

    model: LanguageModel
    tokenizer: Tokenizer
    config: Config
    step: int
    folder: RunFolder

    def generate(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 500,
        stop: Sequence[str] = (),
        seed: int = 0,
        **sampling: Any,
    ) -> str:
        """Text that goes on from a prompt; `sampling` takes the fields of SamplingConfig
        (temperature, top_k, top_p, min_p, repetition_penalty).

        Raises: UnknownCharacterError, ConfigError.
        """
        return "".join(
            self.stream(prompt, max_new_tokens=max_new_tokens, stop=stop, seed=seed, **sampling)
        )

    def stream(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 500,
        stop: Sequence[str] = (),
        seed: int = 0,
        **sampling: Any,
    ) -> Iterator[str]:
        """`generate`, piece by piece as the text is made."""
        return generate.stream(
            self.model,
            self.tokenizer,
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=SamplingConfig(**sampling),
            stop=stop,
            seed=seed,
        )

    def evaluate(self) -> Evaluation:
        """The exact loss on the validation part of the run's own text.

        Raises: DataError; CheckpointError when the text has changed.
        """
        corpus = read_corpus(self.config.data.corpus, encoding=self.config.data.encoding)
        check_same_text(corpus, self.folder)
        tokens = prepare(corpus, self.config.data, self.tokenizer).validation
        return self.evaluate_tokens(tokens)

    def evaluate_text(self, text: str) -> Evaluation:
        """The exact loss on all of another text.

        Raises: DataError; UnknownCharacterError for a text outside the vocabulary.
        """
        return self.evaluate_tokens(self.tokenizer.encode_array(text))

    def evaluate_tokens(self, tokens: Tokens) -> Evaluation:
        """The exact loss on tokens of this model's tokenizer."""
        return evaluate(self.model, self.tokenizer, tokens, block_size=self.config.model.block_size)


def check_same_text(corpus: Corpus, folder: RunFolder) -> None:
    """See that a run's text is still the one it was trained on.

    Raises: CheckpointError with both hashes.
    """
    recorded = folder.environment_facts().get("corpus_sha256")
    if recorded != corpus.sha256:
        raise CheckpointError(
            f"{corpus.source} has changed since {folder.path} was trained on it (SHA-256 "
            f"{corpus.sha256[:12]}, then {str(recorded)[:12]}); bring the old text back, or train "
            "a new run"
        )


def load(
    path: str | os.PathLike[str],
    *,
    which: Literal["best", "last"] = "best",
    device: str = "cpu",
) -> TrainedModel:
    """The trained model of a run folder: its best weights, or its last.

    Raises: CheckpointError when the run is missing, unfinished or damaged.
    """
    folder = open_run(path)
    config = load_config(folder.config)
    tokenizer = load_tokenizer(folder.tokenizer)
    found = load_checkpoint(folder, which)
    counted = load_counts(folder, tokenizer) if config.model.reads_counts else None
    model = build(config.model, tokenizer.vocab_size, counted)
    load_weights(model, found.tensors["model"], folder)
    return TrainedModel(model.eval().to(device), tokenizer, config, found.step, folder)


def save_counts(folder: RunFolder, counted: NGramModel) -> None:
    """Keep what was counted: once a run, in a checkpoint of its own.

    Raises: CheckpointError when the disk refuses.
    """
    # The tables are read in float32; shares kept more exactly would only take more room.
    tensors = {
        name: torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else array)
        for name, array in counted.arrays().items()
    }
    checkpoint.save(folder.checkpoints, "counts", checkpoint.Checkpoint(0, {"counts": tensors}, {}))


def load_counts(folder: RunFolder, tokenizer: Tokenizer) -> NGramModel:
    """What a run has counted.

    Raises: CheckpointError when it is missing, damaged, or not of this tokenizer.
    """
    tensors = checkpoint.load(folder.checkpoints, "counts").tensors.get("counts", {})
    try:
        counted = NGramModel.from_arrays({name: each.numpy() for name, each in tensors.items()})
    except DataError as error:
        raise CheckpointError(f"{folder.checkpoints}: {error}") from None
    if counted.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            f"{folder.checkpoints}: the counts are of {counted.vocab_size} different tokens, but "
            f"tokenizer.json has {tokenizer.vocab_size}"
        )
    return counted


def load_checkpoint(folder: RunFolder, which: Literal["best", "last"]) -> checkpoint.Checkpoint:
    """The best or last checkpoint; the last one also stands in for a best not yet chosen.

    Raises: CheckpointError when there is none.
    """
    if which == "best" and checkpoint.folders(folder.checkpoints, "best"):
        return checkpoint.load(folder.checkpoints, "best")
    return checkpoint.load(folder.checkpoints, "step")


def load_weights(model: LanguageModel, tensors: dict[str, torch.Tensor], folder: RunFolder) -> None:
    """Put saved weights into a model.

    Raises: CheckpointError when they are another model's.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder.path}: the weights do not fit config.toml: {' '.join(str(error).split())}"
        ) from None
