"""The run folder: all that a training leaves behind, and the trained model loaded from it.

config.toml  environment.json  tokenizer.json  metrics.jsonl  checkpoints/  sample.txt  result.json
report.html  report.md  report.json; run.json, the manifest of the first three; .lock, held by the
run's one writer; input.txt, where the text came on standard input
"""

from __future__ import annotations

import json
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, TypeVar

import msgspec
from msgspec import Meta

from hornbook.storage import checkpoint
from hornbook.infer import generate
from hornbook.config import Config, ModelConfig, SamplingConfig, load_config
from hornbook.ngram.model import NGramModel
from hornbook.storage.files import JSON_BYTES, read_json, read_log, read_regular
from hornbook.errors import CheckpointError, ConfigError, DataError
from hornbook.storage.lock import LOCK, Lock
from hornbook.storage.disk import DISK, UNFINISHED, Disk, write_atomically
from hornbook.text.corpus import Corpus, read_corpus
from hornbook.text.tokenizer import Tokenizer, load_tokenizer

# Imported where they are used: a run can be written from without torch.
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from hornbook.text.arrays import Tokens
    from hornbook.eval.loss import Evaluation
    from hornbook.models import LanguageModel

Found = TypeVar("Found", checkpoint.Checkpoint, checkpoint.Arrays)

# Format 2 added run.json.
FORMAT = 2


class Entry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file's size and SHA-256."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What `run.json` records; `before` are files that are just being replaced."""

    format: int
    files: dict[str, Entry]
    before: dict[str, Entry] = {}


Number = Annotated[float, Meta(ge=-1e300, le=1e300)]  # neither NaN nor infinite
Whole = Annotated[int, Meta(ge=0, le=2**62)]


class MetricsRow(TypedDict):
    """What every row of `metrics.jsonl` has, among other things."""

    step: Whole
    seconds: Number
    train_loss: Number
    val_loss: Number | None


class Figures(TypedDict):
    """What `result.json` has, among other things."""

    steps: Whole
    tokens: Whole
    seconds: Number
    parameters: Whole
    baselines_nats_per_char: dict[str, Number]


def is_like(value: object, kind: type[Any]) -> bool:
    """Whether a value read from JSON has what a TypedDict asks for."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


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
    def manifest(self) -> Path:
        """Size and SHA-256 of the three files above."""
        return self.path / "run.json"

    @property
    def text(self) -> Path:
        """The text, where it came on standard input."""
        return self.path / "input.txt"

    @property
    def metrics(self) -> Path:
        """One JSON object a step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The last and the best weights."""
        return self.path / "checkpoints"

    @property
    def counts(self) -> Path:
        """What a model made from counts has counted."""
        return self.checkpoints / "counts-00000000"

    @property
    def copies(self) -> Path:
        """The index of the training text that tracing made."""
        return self.path / "copies"

    @property
    def sample(self) -> Path:
        """What the finished model wrote."""
        return self.path / "sample.txt"

    @property
    def result(self) -> Path:
        """The figures of the finished run, as `train --json` prints them."""
        return self.path / "result.json"

    @property
    def own_files(self) -> list[Path]:
        """What the manifest lists: written when the run begins, and the settings last."""
        return [self.tokenizer, self.environment, self.config]

    def create(self, disk: Disk = DISK) -> Lock:
        """Make the folder, or take one whose beginning was cut short; the caller is its writer.

        Raises: ConfigError when it holds anything else, or cannot be made; CheckpointError when
        another process is at it.
        """
        try:
            disk.make_folder(self.path)
            occupied = self.occupied()
        except OSError as error:
            raise ConfigError(f"--out {self.path}: {error.strerror}") from None
        lock = Lock(self.path)
        if not occupied:
            lock.acquire()
            occupied = self.config.exists()  # The one before us may have finished it just now.
        if occupied:
            raise ConfigError(
                f"--out {self.path}: the folder is not empty; name a new one, or go on with its "
                f"run by hornbook train --resume {self.path}"
            )
        return lock

    def occupied(self) -> bool:
        """Whether there is more here than a beginning cut short leaves."""
        names = {path.name for path in self.path.iterdir()}
        own = {path.name for path in (*self.own_files, self.manifest, self.text)} - {"config.toml"}
        others = {name for name in names - own if not name.startswith(UNFINISHED)}
        # Without our lock in it, a tokenizer.json may be anybody's.
        return bool(names) and others != {LOCK}

    def establish(self, contents: dict[Path, bytes], disk: Disk = DISK) -> None:
        """Write the run's own files and their manifest, and the settings last: they make it a run.

        Raises: CheckpointError when the disk refuses.
        """
        entries = checkpoint.manifest_of({path.name: data for path, data in contents.items()})
        manifest = {"format": FORMAT, "files": entries}
        contents = {self.manifest: json.dumps(manifest, indent=1).encode()} | contents
        for path in (self.manifest, *self.own_files):
            write_atomically(path, contents[path], disk)

    def replace_config(self, config: Config, disk: Disk = DISK) -> None:
        """Other settings for the run; a crash in between leaves the old ones or the new.

        Raises: CheckpointError when the disk refuses.
        """
        data = config.to_toml().encode()
        known = self.read_manifest()
        if known is not None:
            name = self.config.name
            new = msgspec.convert(checkpoint.manifest_of({name: data})[name], Entry)
            known = msgspec.structs.replace(
                known, files=known.files | {name: new}, before={name: known.files[name]}
            )
            text = msgspec.json.format(msgspec.json.encode(known), indent=1)
            write_atomically(self.manifest, text, disk)
        write_atomically(self.config, data, disk)

    def read_manifest(self) -> Manifest | None:
        """What `run.json` says; None for a run of the first format, which had none.

        Raises: CheckpointError when it is missing, damaged, or of another version.
        """
        try:
            found = msgspec.json.decode(read_regular(self.manifest, JSON_BYTES), type=Manifest)
        except FileNotFoundError:
            if self.environment_facts().get("format", 1) == 1:
                return None
            raise CheckpointError(f"{self.manifest}: missing") from None
        except OSError as error:
            raise CheckpointError(f"{self.manifest}: cannot be read: {error.strerror}") from None
        # UnicodeDecodeError: msgspec lets it through, for bytes that are not UTF-8.
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CheckpointError(f"{self.manifest}: damaged: {error}") from None
        if found.format != FORMAT:
            raise CheckpointError(
                f"{self.manifest}: in the run format {found.format}, which this version of "
                f"hornbook ({FORMAT}) cannot read; use the version that wrote it"
            )
        if set(found.files) != {path.name for path in self.own_files}:
            raise CheckpointError(f"{self.manifest}: damaged: it does not list the run's files")
        return found

    def check(self, path: Path) -> None:
        """See that one of the run's own files is as `run.json` has it.

        Raises: CheckpointError saying how it is not.
        """
        manifest = self.read_manifest()
        if manifest is None:
            return
        try:
            data = read_regular(path, JSON_BYTES)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from None
        entry = msgspec.convert(checkpoint.manifest_of({path.name: data})[path.name], Entry)
        if entry in (manifest.files[path.name], manifest.before.get(path.name)):
            return
        if path == self.config:
            raise CheckpointError(
                f"{path}: edited or damaged since the run began (its SHA-256 is not the one in "
                "run.json); a run keeps its settings: undo the change, or train a new run with "
                f"hornbook train --config {path}"
            )
        if entry.bytes != manifest.files[path.name].bytes:
            expected = manifest.files[path.name].bytes
            raise CheckpointError(f"{path}: {entry.bytes} bytes, expected {expected}")
        raise CheckpointError(f"{path}: its SHA-256 is not the one recorded in run.json")

    def environment_facts(self) -> dict[str, Any]:
        """What `environment.json` says.

        Raises: CheckpointError when it cannot be read.
        """
        try:
            facts = read_json(self.environment)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.environment}: cannot be read: {error}") from None
        if not isinstance(facts, dict):
            raise CheckpointError(f"{self.environment}: expected a JSON object")
        return facts

    def metrics_rows(self) -> Iterator[dict[str, Any]]:
        """The rows of `metrics.jsonl`; a line torn by a crash is passed over.

        Raises: CheckpointError when it cannot be read.
        """
        if not self.metrics.exists():
            return
        try:
            for row in read_log(self.metrics):
                if is_like(row, MetricsRow):
                    yield row
        except OSError as error:
            raise CheckpointError(f"{self.metrics}: cannot be read: {error.strerror}") from None

    def figures(self) -> Figures:
        """What `result.json` says.

        Raises: CheckpointError when it cannot be read.
        """
        try:
            figures = read_json(self.result)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.result}: cannot be read: {error}") from None
        if not is_like(figures, Figures):
            raise CheckpointError(
                f"{self.result}: not the figures of a run; remove it to have them measured again"
            )
        return figures


def steps_never_saved(folder: RunFolder) -> int:
    """How many steps a run without a checkpoint has taken; it can only begin again.

    Raises: CheckpointError when there was a checkpoint once, which must not be passed over.
    """
    done = max((row["step"] for row in folder.metrics_rows()), default=0)
    interval = load_config(folder.config).train.checkpoint_interval
    if folder.result.exists():
        sign = "result.json says that the run had ended"
    elif done > interval:  # No step follows the interval's before the disk has its checkpoint.
        sign = f"metrics.jsonl has {done:,} steps, and they were saved every {interval:,}"
    else:
        return done
    raise CheckpointError(
        f"{folder.checkpoints}: the run's checkpoints are missing: {sign}; bring the folder back, "
        f"or train a new run with hornbook train --config {folder.config}"
    )


def new_run_path(corpus_name: str, parent: Path = Path("runs")) -> Path:
    """The first free ``runs/<corpus>-<n>``; a name cannot lead out of `parent`."""
    name = re.sub(r"[^\w.-]+", "-", corpus_name).strip(".-")[:50] or "text"
    return next(path for n in count(1) if not (path := parent / f"{name}-{n}").exists())


def open_run(path: str | os.PathLike[str]) -> RunFolder:
    """A run folder that exists, its own files as they were written.

    Raises: CheckpointError saying what was expected, and which runs are near.
    """
    folder = RunFolder(Path(path))
    if folder.config.is_file():
        for file in folder.own_files:
            folder.check(file)
        return folder
    if folder.checkpoints.is_dir():
        raise CheckpointError(f"{folder.config}: missing from this run")
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
        """`generate`, piece by piece as the text is made: by the weights as they are now."""
        from hornbook.infer.torch_decoder import snapshot

        return generate.stream(
            snapshot(self.model),
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
        from hornbook.text.dataset import prepare

        corpus = read_corpus(self.config.data.corpus, encoding=self.config.data.encoding)
        check_same_text(corpus, self.folder)
        tokens = prepare(corpus, self.config.data, self.tokenizer).validation
        return self.evaluate_tokens(tokens)

    def evaluate_text(self, text: str) -> Evaluation:
        """The exact loss on all of another text.

        Raises: DataError; UnknownCharacterError for a text outside the vocabulary.
        """
        return self.evaluate_tokens(self.tokenizer.encode_array(text))

    def evaluate_tokens(self, tokens: Tokens, *, max_positions: int | None = None) -> Evaluation:
        """The loss on tokens of this model's tokenizer: exact up to `max_positions` of them."""
        from hornbook.eval.loss import evaluate

        return evaluate(
            self.model,
            self.tokenizer,
            tokens,
            block_size=self.config.model.context_size,
            max_positions=max_positions,
        )


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
    from hornbook.models import build, use_ngram_kernels
    from hornbook.kernels import NativeUnavailableError

    folder = open_run(path)
    config = load_config(folder.config)
    tokenizer = load_tokenizer(folder.tokenizer)
    found = load_checkpoint(folder, which)
    counted = load_counts(folder, tokenizer) if config.model.reads_counts else None
    check_shapes(config.model, tokenizer, found.tensors["model"], folder, counted)
    model = build(config.model, tokenizer.vocab_size, counted)
    load_weights(model, found.tensors["model"], folder)
    with suppress(NativeUnavailableError):
        use_ngram_kernels(model)
    return TrainedModel(model.eval().to(device), tokenizer, config, found.step, folder)


def save_counts(folder: RunFolder, counted: NGramModel, disk: Disk = DISK) -> None:
    """Keep what was counted: once a run, as a checkpoint of step 0.

    Raises: CheckpointError when the disk refuses.
    """
    import torch

    # The tables are read in float32; shares kept more exactly would only take more room.
    tensors = {
        name: torch.from_numpy(array.astype("float32") if array.dtype.kind == "f" else array)
        for name, array in counted.arrays().items()
    }
    made = checkpoint.Checkpoint(0, {"counts": tensors}, {})
    checkpoint.save(folder.checkpoints, "counts", made, disk=disk)


def load_counts(folder: RunFolder, tokenizer: Tokenizer) -> NGramModel:
    """What a run has counted.

    Raises: CheckpointError when it is missing, damaged, or not of this tokenizer.
    """
    try:
        counted = NGramModel.from_arrays(checkpoint.read_counts(folder.counts))
    except DataError as error:
        raise CheckpointError(f"{folder.counts}: {error}") from None
    if counted.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            f"{folder.counts}: the counts are of {counted.vocab_size} different tokens, but "
            f"tokenizer.json has {tokenizer.vocab_size}"
        )
    return counted


def load_checkpoint(folder: RunFolder, which: Literal["best", "last"]) -> checkpoint.Checkpoint:
    """The best or last checkpoint; the last one stands in for a best not yet chosen, or damaged.

    Raises: CheckpointError when there is none.
    """
    names = ("model",) if which == "best" else ("model", "optimizer")
    return best_or_last(
        folder, which, lambda place, kind: complete(checkpoint.load(place, kind), folder, *names)
    )


def load_arrays(folder: RunFolder, which: Literal["best", "last"]) -> checkpoint.Arrays:
    """The weights of the same checkpoint as numpy arrays, without torch.

    Raises: CheckpointError when there is none.
    """
    return best_or_last(folder, which, checkpoint.load_arrays)


def best_or_last(
    folder: RunFolder, which: Literal["best", "last"], load_kind: Callable[[Path, str], Found]
) -> Found:
    """What is meant, or the last for a best not yet chosen; for a damaged best with a warning.

    Raises: CheckpointError when there is none.
    """
    if which == "best" and checkpoint.folders(folder.checkpoints, "best"):
        try:
            return load_kind(folder.checkpoints, "best")
        except CheckpointError as error:
            last = load_kind(folder.checkpoints, "step")
            said = f"{error}; the last weights, of step {last.step}, are used instead"
            warnings.warn(said, checkpoint.DamagedCheckpointWarning, stacklevel=3)
            return last
    return load_kind(folder.checkpoints, "step")


def complete(found: checkpoint.Checkpoint, folder: RunFolder, *names: str) -> checkpoint.Checkpoint:
    """The same checkpoint.

    Raises: CheckpointError when a file of tensors is not among those its manifest names.
    """
    for name in names:
        if name not in found.tensors:
            raise CheckpointError(f"{folder.checkpoints}: no {name}.safetensors in the checkpoint")
    return found


def check_shapes(
    config: ModelConfig,
    tokenizer: Tokenizer,
    tensors: dict[str, torch.Tensor],
    folder: RunFolder,
    counted: NGramModel | None = None,
) -> None:
    """See that weights are those of the model that the settings describe, before it takes memory.

    Raises: CheckpointError with the first that differs.
    """
    from hornbook.models import outline

    # One layer more than there are tensors is wrong already, however many more there should be.
    config = replace(config, n_layer=min(config.n_layer, len(tensors) + 1))
    try:
        model = outline(config, tokenizer.vocab_size, counted)
    except RuntimeError:  # more elements than 64 bits can count
        raise CheckpointError(
            f"{folder.path}: config.toml describes a model too large for any machine"
        ) from None
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    found = {name: list(value.shape) for name, value in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{folder.path}: the weights do not fit config.toml: expected {name!r} of shape "
                f"{expected.get(name)}, found {found.get(name)}"
            )


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
