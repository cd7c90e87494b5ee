"""Verifies a run: every file of its folder is checked and named."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hornbook.errors import CheckpointError, DataError, HornbookError, reason
from hornbook.language import joined, msg
from hornbook.models.registry import build
from hornbook.ngram import suffix_array as copies
from hornbook.optim.optimizer import Optimizers
from hornbook.runs.folder import RunFolder, steps_never_saved
from hornbook.runs.load import check_shapes, load_counts, load_mixer, load_weights
from hornbook.storage import checkpoint
from hornbook.storage.files import LOG_BYTES, LOG_LINE_BYTES, open_regular
from hornbook.storage.tensors import pieces
from hornbook.text.dataset import read_text
from hornbook.text.shards import read_all
from hornbook.text.store import open_store
from hornbook.text.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Finding:
    """One file or checkpoint folder: its contents, and its fault, if any."""

    path: Path
    holds: str = ""
    fault: str | None = None

    @property
    def sound(self) -> bool:
        """Whether there is no fault."""
        return self.fault is None

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON has it."""
        facts = {name: value for name, value in asdict(self).items() if name != "holds"}
        return {"path": "", "sound": self.sound} | facts | {"path": str(self.path)}


@dataclass(frozen=True, kw_only=True)
class CheckpointFinding(Finding):
    """A checkpoint with the SHA-256 of its files; a best one has no optimizer."""

    kind: str
    step: int
    weights_sha256: str | None
    optimizer_sha256: str | None


@dataclass(frozen=True)
class Verdict:
    """The findings of a run folder."""

    folder: RunFolder
    files: list[Finding]
    checkpoints: list[CheckpointFinding]

    @property
    def sound(self) -> bool:
        """Whether no file has a fault."""
        return all(each.sound for each in (*self.files, *self.checkpoints))

    def as_dict(self) -> dict[str, Any]:
        """The verdict as `verify --json` prints it."""
        return {
            "run": str(self.folder.path),
            "sound": self.sound,
            "files": [each.as_dict() for each in self.files],
            "checkpoints": [each.as_dict() for each in self.checkpoints],
        }


def verify(path: str | Path) -> Verdict:
    """Check every file of a run that results depend on, and that its logs can be read.

    Raises: CheckpointError when there is no such folder.
    """
    folder = RunFolder(Path(path))
    if not folder.path.is_dir():
        raise CheckpointError(msg("{path}: no such folder", path=path))
    checks: dict[Path, Callable[[RunFolder], str]] = {
        folder.config: check_config,
        folder.environment: check_environment,
        folder.tokenizer: check_tokenizer,
        folder.manifest: check_manifest,
    }
    later = {
        folder.text: check_text,
        folder.metrics: check_metrics,
        folder.result: check_result,
        folder.counts: check_counts,
        folder.copies: check_copies,
    }
    checks |= {file: check for file, check in later.items() if file.exists()}
    checks |= dict.fromkeys(checkpoint.folders(folder.checkpoints, "mixer"), check_mixers)
    if not checkpoint.folders(folder.checkpoints, "step"):
        checks[folder.checkpoints] = check_never_saved
    return Verdict(
        folder,
        [examine(folder, file, check) for file, check in checks.items()],
        [
            examine_checkpoint(folder, found, kind)
            for kind in ("step", "best")
            for found in checkpoint.folders(folder.checkpoints, kind)
        ],
    )


def verify_store(path: Path) -> Verdict:
    """Check every shard of a store against its hashes.

    Raises: DataError for a store that is not finished, or whose manifest is damaged.
    """
    store = open_store(path, sizes=False)
    parts = [part for each in store.manifest.shards for part in (each.train, each.validation)]
    files: list[Finding] = []
    for part in parts:
        try:
            read_all(part, store.pieces, store.width)
            files.append(Finding(path / part.file, msg("{tokens:,} tokens", tokens=part.tokens)))
        except DataError as error:
            files.append(Finding(path / part.file, fault=reason(error)))
    return Verdict(RunFolder(path), files, [])


def examine(folder: RunFolder, file: Path, check: Callable[[RunFolder], str]) -> Finding:
    """The outcome of one check, which returns the file's contents in words or raises its fault."""
    try:
        if file in folder.own_files:
            folder.check(file)
        return Finding(file, check(folder))
    except HornbookError as error:
        return Finding(file, fault=reason(error))


def check_manifest(folder: RunFolder) -> str:
    """`run.json`."""
    manifest = folder.read_manifest()
    if manifest is None:
        return msg("missing, as in all runs of the first format")
    return msg("run format {format}", format=manifest.format)


def check_config(folder: RunFolder) -> str:
    """`config.toml`."""
    config = folder.settings()
    return msg(
        "{kind}, {steps:,} steps on {corpus}",
        kind=config.model.kind,
        steps=config.train.steps,
        corpus=config.data.corpus,
    )


def check_environment(folder: RunFolder) -> str:
    """`environment.json`."""
    facts = folder.environment_facts()
    return msg(
        "torch {version} on {processor}",
        version=facts.get("torch"),
        processor=facts.get("processor"),
    )


def check_tokenizer(folder: RunFolder) -> str:
    """`tokenizer.json`."""
    return msg("{tokens:,} tokens", tokens=load_tokenizer(folder.tokenizer).vocab_size)


def check_text(folder: RunFolder) -> str:
    """`input.txt`, against the hash of the text at the run's start."""
    data = replace(folder.settings().data, corpus=str(folder.text.resolve()))
    if read_text(data).sha256 != folder.environment_facts().get("corpus_sha256"):
        raise CheckpointError(msg("{text}: not the text that the run began with", text=folder.text))
    return msg("the text, as it came on standard input")


def check_metrics(folder: RunFolder) -> str:
    """`metrics.jsonl`: one row a step, in order; a crash may have cut the last one short."""
    try:
        with open_regular(folder.metrics, LOG_BYTES) as file:
            lines = sum(1 for _ in iter(lambda: file.readline(LOG_LINE_BYTES), b""))
    except OSError as error:
        raise CheckpointError(
            msg("{metrics}: {why}", metrics=folder.metrics, why=reason(error))
        ) from None
    steps = [row["step"] for row in folder.metrics_rows()]
    torn = lines - len(steps)
    if steps != list(range(1, len(steps) + 1)) or torn > 1:
        raise CheckpointError(
            msg("{metrics}: rows are missing, out of order or damaged", metrics=folder.metrics)
        )
    if torn:
        return msg("{steps:,} steps, and one cut short by a crash", steps=len(steps))
    return msg("{steps:,} steps", steps=len(steps))


def check_result(folder: RunFolder) -> str:
    """`result.json`."""
    folder.read(folder.result)
    return msg("the finished run's figures")


def check_counts(folder: RunFolder) -> str:
    """The n-gram model."""
    counted = load_counts(folder, load_tokenizer(folder.tokenizer))
    return msg(
        "{number:,} n-grams of up to {order} tokens", number=counted.n_grams, order=counted.order
    )


def check_mixers(folder: RunFolder) -> str:
    """The mixers, of which a run has one at most."""
    tokenizer = load_tokenizer(folder.tokenizer)
    steps = map(checkpoint.step_of, checkpoint.folders(folder.checkpoints, "mixer"))
    found = (load_mixer(folder, tokenizer, step) for step in steps)
    return joined(", ", [each.summary for each in found if each])


def check_copies(folder: RunFolder) -> str:
    """`copies/`, against its own hashes: its text may have moved, or be gone."""
    copies.check(folder.copies)
    return msg("the index that tracing has made of the training text")


def check_never_saved(folder: RunFolder) -> str:
    """`checkpoints/`, where it has none to resume from."""
    steps_never_saved(folder)
    return msg("no checkpoint yet: resuming begins at step 0")


def examine_checkpoint(folder: RunFolder, path: Path, kind: str) -> CheckpointFinding:
    """Check a checkpoint: its files against its manifest, its tensors against the settings."""
    fault, found = None, None
    try:
        found = checkpoint.read(path)
        config = folder.settings()
        tokenizer = load_tokenizer(folder.tokenizer)
        if "model" not in found.tensors or (kind == "step" and "optimizer" not in found.tensors):
            raise CheckpointError(
                msg("{path}: holds no weights, or no optimizer's state", path=path)
            )
        counted = load_counts(folder, tokenizer) if config.model.reads_counts else None
        check_shapes(config.model, tokenizer, found.tensors["model"], folder, counted)
        model = build(config.model, tokenizer.vocab_size, counted)
        load_weights(model, found.tensors["model"], folder)
        if kind == "step":
            Optimizers(model, config.optimizer).load_tensors(found.tensors["optimizer"])
    except HornbookError as error:
        fault = reason(error)
    return CheckpointFinding(
        path,
        msg("everything to resume from") if kind == "step" else msg("the weights"),
        fault,
        kind=kind,
        step=checkpoint.step_of(path),
        weights_sha256=tensors_sha256(path, "model", found),
        optimizer_sha256=tensors_sha256(path, "optimizer", found),
    )


def tensors_sha256(path: Path, name: str, found: checkpoint.Checkpoint | None) -> str | None:
    """The SHA-256 of a checkpoint's file; of shards, that of the file that they would be whole."""
    if found is None or name not in found.tensors or (path / f"{name}.safetensors").exists():
        return file_sha256(path / f"{name}.safetensors")
    digest = hashlib.sha256()
    for data in pieces(found.tensors[name]):
        digest.update(data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str | None:
    """A file's SHA-256; None where it cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
