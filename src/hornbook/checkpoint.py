"""Checkpoints: folders written whole or not at all, hashed, with nothing pickled in them.

    checkpoints/step-00000400/   the last: model.safetensors optimizer.safetensors state.json
    checkpoints/best-00000300/   the weights with the least validation loss so far

A folder is written under a temporary name, every file and the folder synced, and then renamed, so
that a crash or a power cut leaves the old one or the new one. `manifest.json` holds each file's
size and SHA-256; they are checked before anything is used, and a damaged checkpoint is passed
over for the one before it, loudly.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError

from hornbook.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

Found = TypeVar("Found")

FORMAT = 1
MANIFEST = "manifest.json"


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint failed its check and an older one was used."""


@dataclass(frozen=True)
class Checkpoint:
    """What one folder holds: named tensors by file, and a state of plain JSON values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save(folder: Path, kind: str, checkpoint: Checkpoint) -> Path:
    """Write ``folder/<kind>-<step>``, check it, and only then remove the older ones of its kind.

    `kind` is "step" or "best". A sound one of the same step is kept as it is: a step has one state.
    Raises: CheckpointError with the path when the disk refuses; the older ones are then intact.
    """
    import safetensors.torch

    final = folder / f"{kind}-{checkpoint.step:08d}"
    temporary = folder / f".writing-{final.name}"
    if is_sound(final):
        return final
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        contents = {
            f"{name}.safetensors": safetensors.torch.save(
                {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            )
            for name, tensors in checkpoint.tensors.items()
        }
        state = {"format": FORMAT, "step": checkpoint.step, **checkpoint.state}
        contents["state.json"] = json.dumps(state, indent=1).encode()
        manifest = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in contents.items()
        }
        contents[MANIFEST] = json.dumps(manifest, indent=1).encode()
        for name, data in contents.items():
            write_synced(temporary / name, data)
        sync_folder(temporary)
        shutil.rmtree(final, ignore_errors=True)  # there only if damaged
        temporary.rename(final)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{final}: cannot save the checkpoint: {error.strerror or error}; "
            "the one before it is intact. Free some space or name another place with --out"
        ) from None
    read_verified(final)
    for older in folders(folder, kind):
        if older != final:
            shutil.rmtree(older, ignore_errors=True)
    return final


def is_sound(path: Path) -> bool:
    """Whether a checkpoint folder is there and every file is as recorded."""
    try:
        read_verified(path)
    except CheckpointError:
        return False
    return True


def load(folder: Path, kind: str) -> Checkpoint:
    """The newest sound checkpoint of a kind; each damaged one passed over is warned of.

    Raises: CheckpointError when there is none.
    """
    return newest_sound(folder, kind, read)


def load_arrays(folder: Path, kind: str) -> dict[str, NDArray[Any]]:
    """The model's weights alone, as numpy arrays and without torch, from the same checkpoint.

    Raises: CheckpointError when there is none.
    """
    return newest_sound(folder, kind, read_arrays)


def newest_sound(folder: Path, kind: str, read_one: Callable[[Path], Found]) -> Found:
    """What the newest sound checkpoint gives; the damaged ones are warned of.

    Raises: CheckpointError when there is none.
    """
    found = folders(folder, kind)
    for path in found:
        try:
            return read_one(path)
        except CheckpointError as error:
            warnings.warn(f"skipped a damaged checkpoint: {error}", DamagedCheckpointWarning, 3)
    if found:
        raise CheckpointError(f"{folder}: no sound {kind!r} checkpoint among {len(found)}")
    raise CheckpointError(f"{folder}: no {kind!r} checkpoint here")


def folders(folder: Path, kind: str) -> list[Path]:
    """The checkpoint folders of a kind, newest first."""
    return sorted(folder.glob(f"{kind}-[0-9]*"), reverse=True)


def read(path: Path) -> Checkpoint:
    """One checkpoint folder, verified.

    Raises: CheckpointError saying which file is wrong and how.
    """
    import safetensors.torch

    state, files = read_files(path)
    tensors = {name: parse(path, safetensors.torch.load, data) for name, data in files.items()}
    return Checkpoint(state["step"], tensors, state)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The model's weights of one checkpoint folder, verified.

    Raises: CheckpointError saying which file is wrong and how.
    """
    import safetensors.numpy

    _, files = read_files(path)
    return parse(path, safetensors.numpy.load, files.get("model", b""))


def parse(path: Path, load_bytes: Callable[[bytes], Found], data: bytes) -> Found:
    """One file's tensors.

    Raises: CheckpointError when it is no safetensors file.
    """
    try:
        return load_bytes(data)
    except (KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: unreadable: {error}") from None


def read_files(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The state, and the bytes of each file of tensors by its name without the ending; verified.

    Raises: CheckpointError saying which file is wrong and how.
    """
    contents = read_verified(path)
    try:
        state = json.loads(contents.pop("state.json"))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: unreadable: {error}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not in the checkpoint format {FORMAT}; "
            "it was written by another version of hornbook"
        )
    return state, {name.removesuffix(".safetensors"): data for name, data in contents.items()}


def read_verified(path: Path) -> dict[str, bytes]:
    """The bytes of every file but the manifest, each against its size and SHA-256.

    Raises: CheckpointError saying which file is wrong and how.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        expected = {
            name: (entry["bytes"], entry["sha256"])
            for name, entry in manifest.items()
            if Path(name).name == name
        }
    except OSError as error:
        raise CheckpointError(f"{path / MANIFEST}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError, KeyError):
        raise CheckpointError(f"{path / MANIFEST}: not a manifest") from None
    contents = {}
    for name, (size, sha256) in expected.items():
        try:
            found = (path / name).stat().st_size
            data = (path / name).read_bytes() if found == size else b""
        except OSError as error:
            raise CheckpointError(f"{path / name}: {error.strerror}") from None
        if found != size:
            raise CheckpointError(f"{path / name}: {found} bytes, expected {size}")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise CheckpointError(f"{path / name}: its SHA-256 is not the one recorded")
        contents[name] = data
    return contents


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file by `data` in one stroke: readers see the old one or the new one.

    Raises: CheckpointError with the path when the disk refuses.
    """
    temporary = path.with_name(f".writing-{path.name}")
    try:
        write_synced(temporary, data)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: cannot write {len(data):,} bytes: {error.strerror}"
        ) from None


def sync_folder(path: Path) -> None:
    """Wait until the disk has a folder's names, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
