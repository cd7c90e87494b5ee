"""The run folder: the files that a training run leaves.

config.toml  environment.json  tokenizer.json  metrics.jsonl  checkpoints/  sample.txt  result.json
report.html  report.md  report.json  page.html; run.json, the manifest of the first three; .lock,
held by the process that trains the run; input.txt, where the text came on standard input;
failures.jsonl, where ranks of several were lost
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from hornbook.config import Config, load_config
from hornbook.errors import CheckpointError, ConfigError, DataError, command, reason
from hornbook.language import msg
from hornbook.storage import checkpoint
from hornbook.storage.disk import DISK, UNFINISHED, Disk, write_atomically
from hornbook.storage.files import JSON_BYTES, read_json, read_log, read_regular
from hornbook.storage.lock import LOCK, Lock

if TYPE_CHECKING:  # generation reads no text, and begins sooner
    from hornbook.text.corpus import Corpus
    from hornbook.text.tokenizer import Tokenizer

# Format 2 added run.json.
FORMAT = 2


class Entry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file's size and SHA-256."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The contents of `run.json`; `before` has the files that are being replaced."""

    format: int
    files: dict[str, Entry]
    before: dict[str, Entry] = {}


Number = Annotated[float, Meta(ge=-1e300, le=1e300)]  # neither NaN nor infinite
Whole = Annotated[int, Meta(ge=0, le=2**62)]


class MetricsRow(TypedDict):
    """The fields that every row of `metrics.jsonl` must have."""

    step: Whole
    seconds: Number
    train_loss: Number
    val_loss: Number | None


class SampleFigures(TypedDict):
    """A sample in `result.json`."""

    prompt: str
    text: str


class Figures(TypedDict):
    """The fields that `result.json` must have; those of older runs have no sample."""

    steps: Whole
    tokens: Whole
    seconds: Number
    parameters: Whole
    baselines_nats_per_char: dict[str, Number]
    sample: NotRequired[SampleFigures]


def is_like(value: object, kind: type[Any]) -> bool:
    """Whether a value read from JSON has the fields of a TypedDict."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


class Inside:
    """A path in a run folder, by its name there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: "RunFolder", kind: type["RunFolder"]) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run folder."""

    path: Path

    config = Inside("config.toml")  # the resolved settings, which can be run again
    environment = Inside("environment.json")  # the machine, versions, hashes of text and tokenizer
    tokenizer = Inside("tokenizer.json")  # in the format of the tokenizers library
    manifest = Inside("run.json")  # size and SHA-256 of the three files above
    text = Inside("input.txt")  # the text, where it came on standard input
    metrics = Inside("metrics.jsonl")  # one JSON object a step
    checkpoints = Inside("checkpoints")  # the last and the best weights
    counts = Inside("checkpoints/counts-00000000")  # the n-gram model, where the run has one
    copies = Inside("copies")  # the index of the training text that `hornbook trace` builds
    sample = Inside("sample.txt")  # a sample of the finished model
    page = Inside("page.html")  # the model in a page that runs it
    failures = Inside("failures.jsonl")  # why ranks stopped, where several trained the run
    result = Inside("result.json")  # the finished run's figures, as `train --json` prints them

    @property
    def own_files(self) -> list[Path]:
        """The files that the manifest lists, in the order they are written when the run begins."""
        return [self.tokenizer, self.environment, self.config]

    def create(self, disk: Disk = DISK) -> Lock:
        """Create the folder, or take over one that a crash left unfinished; the lock is held.

        Raises: ConfigError when it holds anything else, or cannot be created; CheckpointError when
        another process uses it.
        """
        try:
            disk.make_folder(self.path)
            occupied = self.occupied()
        except OSError as error:
            raise ConfigError(
                msg("--out {path}: {why}", path=self.path, why=reason(error))
            ) from None
        lock = Lock(self.path)
        if not occupied:
            lock.acquire()
            occupied = self.config.exists()  # The process before may have finished it just now.
        if occupied:
            on = command("train", "--resume", self.path)
            why = msg("--out {path}: the folder is not empty; name a new one", path=self.path)
            if self.config.exists():
                why = msg("{why}, or go on with its run by {command}", why=why, command=on)
            raise ConfigError(why)
        return lock

    def occupied(self) -> bool:
        """Whether the folder holds more than an unfinished beginning of a run."""
        names = {path.name for path in self.path.iterdir()}
        own = {path.name for path in (*self.own_files, self.manifest, self.text)} - {"config.toml"}
        others = {name for name in names - own if not name.startswith(UNFINISHED)}
        # Without our lock in it, a tokenizer.json may be anybody's.
        return bool(names) and others != {LOCK}

    def discard(self, *, folder: bool, disk: Disk = DISK) -> None:
        """Remove what `create` and a beginning that failed have left; with `folder` this folder."""
        with suppress(OSError):
            for path in self.path.iterdir():
                disk.remove(path)
            if folder:
                disk.remove_empty_folder(self.path)

    def settings(self) -> Config:
        """The run's settings; a text that the run keeps is found wherever its folder is now.

        Raises: ConfigError when they cannot be read.
        """
        config = load_config(self.config)
        recorded, name = Path(config.data.corpus), self.text.name
        near = [path for path in (self.text, self.path.parent / name) if path.is_file()]
        if recorded.name == name and near and not (recorded.is_absolute() and recorded.exists()):
            config = config.override(corpus=str(near[0].resolve()))
        return config

    def toml(self, config: Config) -> bytes:
        """The contents of `config.toml`: the path of a text inside the run is relative to it."""
        inside = config.data.corpus == str(self.text.resolve())
        return (config.override(corpus=self.text.name) if inside else config).to_toml().encode()

    def establish(self, contents: dict[Path, bytes], disk: Disk = DISK) -> None:
        """Write the run's own files and their manifest. The settings come last and make it a run.

        Raises: CheckpointError when the disk refuses.
        """
        entries = checkpoint.manifest_of({path.name: data for path, data in contents.items()})
        manifest = {"format": FORMAT, "files": entries}
        contents = {self.manifest: json.dumps(manifest, indent=1).encode()} | contents
        for path in (self.manifest, *self.own_files):
            write_atomically(path, contents[path], disk)

    def replace(self, contents: dict[Path, bytes], disk: Disk = DISK) -> None:
        """Replace some of the run's own files; a crash leaves each as it was, or as it is now.

        Raises: CheckpointError when the disk refuses.
        """
        known = self.read_manifest()
        if known is not None:
            named = checkpoint.manifest_of({path.name: data for path, data in contents.items()})
            new = msgspec.convert(named, dict[str, Entry])
            before = {name: known.files[name] for name in new}
            known = msgspec.structs.replace(known, files=known.files | new, before=before)
            text = msgspec.json.format(msgspec.json.encode(known), indent=1)
            write_atomically(self.manifest, text, disk)
        for path, data in contents.items():
            write_atomically(path, data, disk)

    def read_manifest(self) -> Manifest | None:
        """The contents of `run.json`; None for a run of the first format, which has none.

        Raises: CheckpointError when it is missing, damaged, or of another version.
        """
        try:
            found = msgspec.json.decode(read_regular(self.manifest, JSON_BYTES), type=Manifest)
        except FileNotFoundError:
            if self.environment_facts().get("format", 1) == 1:
                return None
            raise CheckpointError(msg("{manifest}: missing", manifest=self.manifest)) from None
        except OSError as error:
            raise CheckpointError(
                msg(
                    "{manifest}: cannot be read: {strerror}",
                    manifest=self.manifest,
                    strerror=reason(error),
                )
            ) from None
        # msgspec lets UnicodeDecodeError through, for bytes that are not UTF-8.
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CheckpointError(
                msg("{manifest}: damaged: {error}", manifest=self.manifest, error=error)
            ) from None
        if found.format != FORMAT:
            raise CheckpointError(
                msg(
                    "{manifest}: in the run format {format}, which this version of hornbook "
                    "({FORMAT}) cannot read; use the version that wrote it",
                    manifest=self.manifest,
                    format=found.format,
                    FORMAT=FORMAT,
                )
            )
        if set(found.files) != {path.name for path in self.own_files}:
            raise CheckpointError(
                msg("{manifest}: damaged: it does not list the run's files", manifest=self.manifest)
            )
        return found

    def check(self, path: Path) -> None:
        """Check one of the run's own files against `run.json`.

        Raises: CheckpointError with the difference.
        """
        manifest = self.read_manifest()
        if manifest is None:
            return
        try:
            data = read_regular(path, JSON_BYTES)
        except OSError as error:
            raise CheckpointError(msg("{path}: {why}", path=path, why=reason(error))) from None
        entry = msgspec.convert(checkpoint.manifest_of({path.name: data})[path.name], Entry)
        if entry in (manifest.files[path.name], manifest.before.get(path.name)):
            return
        if path == self.config:
            raise CheckpointError(
                msg(
                    "{path}: edited or damaged since the run began (its SHA-256 is not the one in "
                    "run.json); a run keeps its settings: undo the change, or train a new run with "
                    "{command}",
                    path=path,
                    command=command("train", "--config", path),
                )
            )
        if entry.bytes != manifest.files[path.name].bytes:
            expected = manifest.files[path.name].bytes
            raise CheckpointError(
                msg(
                    "{path}: {bytes} bytes, expected {expected}",
                    path=path,
                    bytes=entry.bytes,
                    expected=expected,
                )
            )
        raise CheckpointError(
            msg("{path}: its SHA-256 is not the one recorded in run.json", path=path)
        )

    def read(self, path: Path) -> Any:
        """A JSON file's contents.

        Raises: CheckpointError when it cannot be read.
        """
        try:
            return read_json(path)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                msg("{path}: cannot be read: {error}", path=path, error=error)
            ) from None

    def environment_facts(self) -> dict[str, Any]:
        """The contents of `environment.json`.

        Raises: CheckpointError when it cannot be read.
        """
        facts = self.read(self.environment)
        if not isinstance(facts, dict):
            raise CheckpointError(
                msg("{environment}: expected a JSON object", environment=self.environment)
            )
        return facts

    def metrics_rows(self) -> Iterator[dict[str, Any]]:
        """The rows of `metrics.jsonl`; a line that a crash cut short is skipped.

        Raises: CheckpointError when it cannot be read.
        """
        if not self.metrics.exists():
            return
        try:
            for row in read_log(self.metrics):
                if is_like(row, MetricsRow):
                    yield row
        except OSError as error:
            raise CheckpointError(
                msg(
                    "{metrics}: cannot be read: {strerror}",
                    metrics=self.metrics,
                    strerror=reason(error),
                )
            ) from None

    def figures(self) -> Figures:
        """The contents of `result.json`.

        Raises: CheckpointError when it cannot be read.
        """
        figures = self.read(self.result)
        if not is_like(figures, Figures):
            raise CheckpointError(
                msg(
                    "{result}: not the figures of a run; remove it to have them measured again",
                    result=self.result,
                )
            )
        return figures


def steps_never_saved(folder: RunFolder) -> int:
    """The steps taken by a run without a checkpoint, which can only begin again.

    Raises: CheckpointError when there was a checkpoint once, which must not be ignored.
    """
    done = max((row["step"] for row in folder.metrics_rows()), default=0)
    train = folder.settings().train
    # Step interval + 1 begins only after its checkpoint is on disk; saved in the background, it is
    # there before the next checkpoint is begun.
    interval, unsaved = train.checkpoint_interval, 2 if train.async_save == "on" else 1
    if folder.result.exists():
        sign = msg("result.json says that the run had ended")
    elif done > unsaved * interval:
        sign = msg(
            "metrics.jsonl has {done:,} steps, and they were saved every {interval:,}",
            done=done,
            interval=interval,
        )
    else:
        return done
    raise CheckpointError(
        msg(
            "{checkpoints}: the run's checkpoints are missing: {sign}; bring the folder "
            "back, or train a new run with {command}",
            checkpoints=folder.checkpoints,
            sign=sign,
            command=command("train", "--config", folder.config),
        )
    )


def runs_on(corpus_sha256: str, parent: Path = Path("runs")) -> Iterator[tuple[str, float]]:
    """The finished runs from scratch on a text, and their losses in nats per character."""
    for path in sorted(parent.glob("*/result.json")):
        folder = RunFolder(path.parent)
        try:
            facts, loss = folder.environment_facts(), read_json(path).get("val_nats_per_char")
        except (CheckpointError, OSError, ValueError, AttributeError):
            continue  # somebody else's folder
        own = facts.get("corpus_sha256") == corpus_sha256 and not facts.get("pretrained")
        if own and isinstance(loss, float):
            yield str(folder.path), loss


def new_run_path(corpus_name: str, parent: Path = Path("runs")) -> Path:
    """The first free ``runs/<corpus>-<n>``; a name cannot lead out of `parent`."""
    name = re.sub(r"[^\w.-]+", "-", corpus_name).strip(".-")[:50] or "text"
    return next(path for n in count(1) if not (path := parent / f"{name}-{n}").exists())


def open_run(path: str | os.PathLike[str]) -> RunFolder:
    """An existing run folder whose own files are unchanged.

    Raises: CheckpointError with what was expected, and the runs nearby.
    """
    folder = RunFolder(Path(path))
    if folder.config.is_file():
        for file in folder.own_files:
            folder.check(file)
        return folder
    if folder.checkpoints.is_dir():
        raise CheckpointError(msg("{config}: missing from this run", config=folder.config))
    near = [
        p.parent for p in (*folder.path.glob("*/config.toml"), *Path("runs").glob("*/config.toml"))
    ]
    why = msg("{path}: not a run folder (no config.toml in it)", path=path)
    if near:
        listed = ", ".join(str(p) for p in sorted(near)[:5])
        why = msg("{why}; runs here: {listed}", why=why, listed=listed)
    raise CheckpointError(why)


def run_tokenizer(folder: RunFolder) -> "Tokenizer":
    """A run's tokenizer, which knows whether the run's text has CR, as of `text_has_cr`.

    Raises: DataError; CheckpointError when the run's facts cannot be read.
    """
    from hornbook.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder.tokenizer)
    recorded = folder.environment_facts().get("text_has_cr")  # older runs have not recorded it
    tokenizer.text_has_cr = recorded if isinstance(recorded, bool) else None
    return tokenizer


def run_text(folder: RunFolder, config: Config) -> "Corpus":
    """The text that a run was trained on.

    Raises: DataError when it cannot be read; CheckpointError when it has changed.
    """
    from hornbook.text.dataset import read_text

    try:
        corpus = read_text(config.data)
    except DataError as error:
        raise DataError(
            msg("{error}; if it was moved, --text PATH says where it is now", error=error)
        ) from None
    check_same_text(corpus, folder)
    return corpus


def check_same_text(corpus: "Corpus", folder: RunFolder) -> None:
    """Check that a run's text is still the one it was trained on.

    Raises: CheckpointError with both hashes.
    """
    recorded = folder.environment_facts().get("corpus_sha256")
    if recorded != corpus.sha256:
        raise CheckpointError(
            msg(
                "{source} has changed since {folder} was trained on it (SHA-256 {sha256}, then "
                "{recorded}); bring the old text back, or train a new run",
                source=corpus.source,
                folder=folder.path,
                sha256=corpus.sha256[:12],
                recorded=str(recorded)[:12],
            )
        )
