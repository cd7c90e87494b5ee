"""Checkpoints: folders that are written atomically, hashed, and free of pickles.

    checkpoints/step-00000400/   the last: model.safetensors optimizer.safetensors state.json
    checkpoints/best-00000300/   the weights with the lowest validation loss so far

Several processes may have written one together, in shards (`shards.py`).
A folder is written under a temporary name, synced with all its files, and then renamed, so that a
crash or a power cut leaves either the old one or the new one. `manifest.json` has the size and
SHA-256 of each file. They are checked before use; instead of a damaged checkpoint the one before
it is used, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hornbook.errors import CheckpointError, HornbookWarning, reason
from hornbook.language import msg
from hornbook.storage.disk import DISK, UNFINISHED, Disk
from hornbook.storage.files import (
    JSON_BYTES,
    map_regular,
    open_regular,
    parse_json,
    read_json,
    read_regular,
)
from hornbook.storage.shards import joined, whole_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from hornbook.storage.arrays import Data

Found = TypeVar("Found")

# Format 2 added the kind of the checkpoint to its state. Format 3 is in shards.
FORMAT, SHARDED, READABLE = 2, 3, (1, 2, 3)
MANIFEST, STATE = "manifest.json", "state.json"
SUFFIX = ".safetensors"
# What numpy, torch and this file raise for a file that is not in the format.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class DamagedCheckpointWarning(HornbookWarning):
    """A checkpoint failed its check and an older one was used."""

    label = "warning"


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a folder: a state dict for each file, and a state of plain JSON values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


@dataclass(frozen=True)
class Arrays:
    """The model of a checkpoint, as numpy arrays by name."""

    step: int
    model: dict[str, NDArray[Any]]


def save(
    folder: Path, kind: str, checkpoint: Checkpoint, *, keep_last: int = 1, disk: Disk = DISK
) -> Path:
    """Write ``folder/<kind>-<step>``, verify it, and only then remove older ones of its kind.

    `kind` is "step" or "best"; the newest `keep_last` stay. An intact one of the same step is not
    rewritten, because a step has one state.
    Raises: CheckpointError with the path if it cannot be written; the older ones are then intact.
    """
    final = folder / f"{kind}-{checkpoint.step:08d}"
    there = is_sound(final)
    try:
        if there:  # Its writer may have been killed before the name was durable.
            disk.sync_folder(final.parent)
        else:
            write_folder(final, packed(kind, checkpoint), disk)
    except OSError as error:
        size = sum(
            each.nbytes for tensors in checkpoint.tensors.values() for each in tensors.values()
        )
        raise CheckpointError(
            msg(
                "{final}: cannot save the checkpoint's {size:,} bytes: {why}; earlier "
                "checkpoints are intact. Free some space or choose another folder with --out",
                final=final,
                size=size,
                why=reason(error),
            )
        ) from None
    if not there:
        check_files(final)
    prune(final, keep_last, disk)
    return final


def prune(final: Path, keep_last: int, disk: Disk) -> None:
    """Remove all checkpoints of a kind but this one and the newest before it.

    Newer ones than this are damaged, or training would have continued from them.
    """
    others = [path for path in folders(final.parent, kind_of(final)) if path != final]
    newer = [path for path in others if step_of(path) > step_of(final)]
    for path in newer + others[len(newer) + keep_last - 1 :]:
        with suppress(OSError):  # An old checkpoint that stays does no harm.
            disk.discard(path)


def packed(kind: str, checkpoint: Checkpoint) -> Iterator[tuple[str, bytes | memoryview]]:
    """The files of a checkpoint folder in pieces, each with its file's name; the manifest last."""
    from hornbook.storage.tensors import pieces

    files: dict[str, Iterable[bytes | memoryview]] = {
        f"{name}{SUFFIX}": pieces(tensors) for name, tensors in checkpoint.tensors.items()
    }
    state = {**checkpoint.state, "format": FORMAT, "kind": kind, "step": checkpoint.step}
    files[STATE] = [json.dumps(state).encode()]
    manifest = {}
    for name, parts in files.items():
        size, digest = 0, hashlib.sha256()
        for part in parts:
            size += len(part)
            digest.update(part)
            yield name, part
        manifest[name] = {"bytes": size, "sha256": digest.hexdigest()}
    yield MANIFEST, json.dumps(manifest, indent=1).encode()


def write_folder(
    final: Path, contents: Iterable[tuple[str, bytes | memoryview]], disk: Disk
) -> None:
    """Write a folder of files atomically and durably; replaces an existing one. Raises: OSError.

    Pieces of one file come one after the other.
    """
    temporary = unfinished(final)
    try:
        open_folder(final, disk)
        for name, parts in groupby(contents, key=lambda each: each[0]):
            for number, (_, data) in enumerate(parts):
                write = disk.append if number else disk.write
                write(temporary / name, data)
            disk.sync(temporary / name)
        promote(final, disk)
    except OSError:
        with suppress(OSError):
            disk.remove(temporary)
        raise


def unfinished(final: Path) -> Path:
    """Where a folder stands until it is promoted."""
    return final.with_name(f"{UNFINISHED}{final.name}")


def open_folder(final: Path, disk: Disk) -> None:
    """Make the unfinished folder, empty. Raises: OSError."""
    disk.make_folder(final.parent)
    disk.remove(unfinished(final))
    disk.make_folder(unfinished(final))


def promote(final: Path, disk: Disk) -> None:
    """Give an unfinished folder, all of whose files are synced, its name. Raises: OSError."""
    disk.sync_folder(unfinished(final))
    if final.exists():
        disk.discard(final)
    disk.rename(unfinished(final), final)
    disk.sync_folder(final.parent)


def manifest_of(contents: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 by file name."""
    return {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents.items()
    }


def is_sound(path: Path) -> bool:
    """Whether a checkpoint folder exists, matches its manifest and is readable."""
    try:
        read(path)
    except CheckpointError:
        return False
    return True


def load(folder: Path, kind: str) -> Checkpoint:
    """The newest intact checkpoint of a kind, as `newest_intact` finds it."""
    return newest_intact(folder, kind, read)


def load_arrays(folder: Path, kind: str) -> Arrays:
    """The model of the same checkpoint as numpy arrays, without importing torch."""
    return newest_intact(folder, kind, read_arrays)


def newest_intact(folder: Path, kind: str, read_one: Callable[[Path], Found]) -> Found:
    """The newest checkpoint that `read_one` can read; warns about each damaged one it skips.

    Raises: CheckpointError if there is none.
    """
    found = folders(folder, kind)
    for path in found:
        try:
            return read_one(path)
        except CheckpointError as error:
            warnings.warn(
                msg("skipped a damaged checkpoint: {error}", error=error),
                DamagedCheckpointWarning,
                3,
            )
    if not found:
        raise CheckpointError(
            msg("{folder}: no {kind!r} checkpoint here", folder=folder, kind=kind)
        )
    raise CheckpointError(
        msg(
            "{folder}: no intact {kind!r} checkpoint among {number}",
            folder=folder,
            kind=kind,
            number=len(found),
        )
    )


def folders(folder: Path, kind: str) -> list[Path]:
    """The checkpoint folders of a kind, newest first."""
    named = re.compile(re.escape(kind) + r"-[0-9]{8,}")
    found = (path for path in folder.glob(f"{kind}-*") if named.fullmatch(path.name))
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(path.name.rpartition("-")[2])


def kind_of(path: Path) -> str:
    """The kind in a checkpoint folder's name."""
    return path.name.rpartition("-")[0]


def read(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder. Raises: CheckpointError with the file and fault."""
    import torch

    from hornbook.storage.tensors import tensors_in

    state, files = read_files(path)
    parts = {name: parse(path, tensors_in, data) for name, data in files.items()}
    return Checkpoint(state["step"], whole(path, parts, torch.cat), state)


def read_arrays(path: Path) -> Arrays:
    """Read and verify one folder's model. Raises: CheckpointError with the file and fault."""
    import numpy as np

    from hornbook.storage.arrays import arrays_in

    state, files = read_files(path)
    parts = {
        name: parse(path, arrays_in, data)
        for name, data in files.items()
        if whole_name(name) == "model"
    }
    if not parts:
        raise CheckpointError(msg("{path}: no model.safetensors in the checkpoint", path=path))
    return Arrays(state["step"], whole(path, parts, np.concatenate)["model"])


def whole(
    path: Path, parts: dict[str, dict[str, Found]], concatenate: Callable[[list[Found]], Found]
) -> dict[str, dict[str, Found]]:
    """The tensors of a folder from its shards, if it has any. Raises: CheckpointError."""
    try:
        return joined(parts, concatenate)
    except (ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(msg("{path}: {why}", path=path, why=reason(error, 200))) from None


def read_state(path: Path) -> Checkpoint:
    """Verify one checkpoint folder, and read all of it but the tensors. Raises: CheckpointError."""
    check_files(path)
    try:
        data = read_regular(path / STATE, JSON_BYTES)
    except OSError as error:
        raise CheckpointError(msg("{path}: {why}", path=path / STATE, why=reason(error))) from None
    state = checked_state(path, data)
    return Checkpoint(state["step"], {}, state)


def read_tables(path: Path, name: str) -> dict[str, NDArray[Any]]:
    """The arrays in one file of a checkpoint, verified. Raises: CheckpointError with the fault."""
    from hornbook.storage.arrays import tables_in

    _, files = read_files(path)
    if name not in files:
        raise CheckpointError(
            msg("{path}: no {name}.safetensors in the checkpoint", path=path, name=name)
        )
    return parse(path, tables_in, files[name])


def mapped(path: Path, size: int) -> Data:
    """The bytes of a file; memory-mapped if it is a file of arrays: processes share the pages."""
    return map_regular(path) if size and path.suffix == SUFFIX else read_regular(path, size)


def parse(path: Path, load_bytes: Callable[[Data], Found], data: Data) -> Found:
    """The tensors of one file. Raises: CheckpointError if it is not a safetensors file."""
    try:
        return load_bytes(data)
    except UNREADABLE as error:
        raise CheckpointError(
            msg("{path}: unreadable: {why}", path=path, why=reason(error, 200))
        ) from None


def read_files(path: Path) -> tuple[dict[str, Any], dict[str, Data]]:
    """The verified state, and the bytes of each file of tensors by its name without the suffix."""
    contents = read_verified(path)
    state = checked_state(path, bytes(contents.pop(STATE, b"")))
    return state, {name.removesuffix(SUFFIX): data for name, data in contents.items()}


def checked_state(path: Path, data: bytes) -> dict[str, Any]:
    """A folder's state from the bytes of its file. Raises: CheckpointError if it is another's."""
    try:
        state: dict[str, Any] = parse_json(data)
        known = state["format"] in READABLE
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            msg("{path}: {state} is unreadable: {error}", path=path, state=STATE, error=error)
        ) from None
    if not known:
        raise CheckpointError(
            msg(
                "{path}: has checkpoint format {format!r}, this version of hornbook reads "
                "{known}; use the version that wrote it",
                path=path,
                format=state["format"],
                known=", ".join(map(str, READABLE)),
            )
        )
    kind, _, number = path.name.rpartition("-")
    # Format 1 did not record the kind.
    if (state.get("kind", kind), state.get("step")) != (kind, int(number)):
        raise CheckpointError(
            msg(
                "{path}: contains a {kind!r} checkpoint of step {step}: the folder was renamed "
                "or exchanged",
                path=path,
                kind=state.get("kind", kind),
                step=state.get("step"),
            )
        )
    return state


def read_verified(path: Path) -> dict[str, Data]:
    """The bytes of each file in the manifest, with its size and SHA-256 checked."""
    contents = {}
    for file, (size, sha256) in read_manifest(path).items():
        try:
            found = file.stat().st_size
            if found != size:
                raise CheckpointError(
                    msg("{file}: {found} bytes, expected {size}", file=file, found=found, size=size)
                )
            contents[file.name] = data = mapped(file, size)
        except (OSError, ValueError) as error:
            raise CheckpointError(msg("{file}: {why}", file=file, why=reason(error))) from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise CheckpointError(msg("{file}: its SHA-256 is not the one recorded", file=file))
    return contents


def check_files(path: Path) -> None:
    """Check size and SHA-256 of each file of a folder, without holding any of them in memory.

    Raises: CheckpointError with the file and the fault.
    """
    for file, (size, sha256) in read_manifest(path).items():
        check_file(file, size, sha256)


def check_file(file: Path, size: int, sha256: str) -> None:
    """Check size and SHA-256 of a file. Raises: CheckpointError."""
    try:
        with open_regular(file, size) as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(msg("{file}: {why}", file=file, why=reason(error))) from None
    if digest != sha256:
        raise CheckpointError(msg("{file}: its SHA-256 is not the one recorded", file=file))


def read_manifest(path: Path) -> dict[Path, tuple[int, str]]:
    """The size and SHA-256 of each file. Raises: CheckpointError if there is no valid manifest."""
    try:
        manifest = read_json(path / MANIFEST)
        for name in manifest:
            # A name could point outside the folder, or break the one-line messages.
            if Path(name).name != name or not name.isprintable():
                raise CheckpointError(
                    msg(
                        "{path}: lists {name!r}, not a file of the folder",
                        path=path / MANIFEST,
                        name=name,
                    )
                )
        return {
            path / name: (int(entry["bytes"]), entry["sha256"]) for name, entry in manifest.items()
        }
    except OSError as error:
        raise CheckpointError(
            msg("{path}: {why}", path=path / MANIFEST, why=reason(error))
        ) from None
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
        raise CheckpointError(msg("{path}: not a manifest", path=path / MANIFEST)) from None
