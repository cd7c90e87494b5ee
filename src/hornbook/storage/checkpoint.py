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
import mmap
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError

from hornbook.errors import CheckpointError, HornbookWarning, reason
from hornbook.storage.disk import DISK, UNFINISHED, Disk
from hornbook.storage.files import map_regular, open_regular, parse_json, read_json, read_regular

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

Found = TypeVar("Found")
# A file's bytes, in memory or where they lie.
Data = TypeVar("Data", bytes, bytes | mmap.mmap)

# Format 2 added a checkpoint's own kind to its state.
FORMAT, READABLE = 2, (1, 2)
MANIFEST = "manifest.json"
SUFFIX = ".safetensors"


class DamagedCheckpointWarning(HornbookWarning):
    """A checkpoint failed its check and an older one was used."""

    label = "warning"


@dataclass(frozen=True)
class Checkpoint:
    """What one folder holds: named tensors by file, and a state of plain JSON values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


@dataclass(frozen=True)
class Arrays:
    """A checkpoint's model alone, as numpy arrays by name."""

    step: int
    model: dict[str, NDArray[Any]]


def save(
    folder: Path, kind: str, checkpoint: Checkpoint, *, keep_last: int = 1, disk: Disk = DISK
) -> Path:
    """Write ``folder/<kind>-<step>``, check it, and only then remove the older ones of its kind.

    `kind` is "step" or "best"; the newest `keep_last` of it stay. A sound one of the same step is
    kept as it is: a step has one state.
    Raises: CheckpointError with the path when the disk refuses; the older ones are then intact.
    """
    final = folder / f"{kind}-{checkpoint.step:08d}"
    if is_sound(final):
        # Who wrote it may have been killed before the disk was sure of its name.
        make_sure(final, disk)
    else:
        write(final, kind, checkpoint, disk)
        verify(final)
    # The new one is good, so one newer than it can only be damaged, and was passed over.
    others = [path for path in folders(folder, kind) if path != final]
    newer = [path for path in others if step_of(path) > checkpoint.step]
    for path in newer + others[len(newer) + keep_last - 1 :]:
        # What cannot be removed is in nobody's way.
        with suppress(OSError):
            disk.discard(path)
    return final


def packed(kind: str, checkpoint: Checkpoint) -> dict[str, bytes]:
    """The bytes of every file of a checkpoint folder, the manifest last."""
    import safetensors.torch

    contents = {
        f"{name}.safetensors": safetensors.torch.save(
            {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        )
        for name, tensors in checkpoint.tensors.items()
    }
    state = {**checkpoint.state, "format": FORMAT, "kind": kind, "step": checkpoint.step}
    contents["state.json"] = json.dumps(state).encode()
    contents[MANIFEST] = json.dumps(manifest_of(contents), indent=1).encode()
    return contents


def make_sure(final: Path, disk: Disk) -> None:
    """See that a folder's name is on the disk.

    Raises: CheckpointError with the path when the disk refuses.
    """
    try:
        disk.sync_folder(final.parent)
    except OSError as error:
        raise refusal(final, 0, error) from None


def write(final: Path, kind: str, checkpoint: Checkpoint, disk: Disk) -> None:
    """Write a checkpoint's folder; one of the name that is there, and damaged, gives way to it.

    Raises: CheckpointError with the path and the bytes when the disk refuses.
    """
    contents = packed(kind, checkpoint)
    try:
        write_folder(final, contents, disk)
    except OSError as error:
        raise refusal(final, sum(map(len, contents.values())), error) from None


def refusal(final: Path, size: int, error: OSError) -> CheckpointError:
    """What a disk's refusal means to the user."""
    return CheckpointError(
        f"{final}: cannot save the checkpoint's {size:,} bytes: {reason(error)}; what was saved "
        "before is intact. Free some space or name another place with --out"
    )


def write_folder(final: Path, contents: dict[str, bytes], disk: Disk) -> None:
    """Make a folder of files in one stroke, durably; one already there gives way to it.

    Raises: OSError; nothing is left of the new folder then, where that can be helped.
    """
    temporary = final.with_name(f"{UNFINISHED}{final.name}")
    try:
        disk.make_folder(final.parent)
        disk.remove(temporary)
        disk.make_folder(temporary)
        for name, data in contents.items():
            disk.write(temporary / name, data)
            disk.sync(temporary / name)
        disk.sync_folder(temporary)
        if final.exists():
            disk.discard(final)
        disk.rename(temporary, final)
        disk.sync_folder(final.parent)
    except OSError:
        with suppress(OSError):
            disk.remove(temporary)
        raise


def manifest_of(contents: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 by file name."""
    return {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents.items()
    }


def is_sound(path: Path) -> bool:
    """Whether a checkpoint folder is there, every file as recorded, and readable."""
    try:
        read(path)
    except CheckpointError:
        return False
    return True


def load(folder: Path, kind: str) -> Checkpoint:
    """The newest sound checkpoint of a kind; each damaged one passed over is warned of.

    Raises: CheckpointError when there is none.
    """
    return newest_sound(folder, kind, read)


def load_arrays(folder: Path, kind: str) -> Arrays:
    """The model's weights alone, from the same checkpoint, as numpy arrays and without torch.

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
    named = re.compile(re.escape(kind) + r"-[0-9]{8,}")
    found = (path for path in folder.glob(f"{kind}-*") if named.fullmatch(path.name))
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(path.name.rpartition("-")[2])


def read(path: Path) -> Checkpoint:
    """One checkpoint folder, verified.

    Raises: CheckpointError saying which file is wrong and how.
    """
    import safetensors.torch

    state, files = read_files(path)
    tensors = {name: parse(path, safetensors.torch.load, data) for name, data in files.items()}
    return Checkpoint(state["step"], tensors, state)


def read_arrays(path: Path) -> Arrays:
    """The model's weights of one checkpoint folder, verified.

    Raises: CheckpointError saying which file is wrong and how.
    """
    import safetensors.numpy

    state, files = read_files(path)
    if "model" not in files:
        raise CheckpointError(f"{path}: no model.safetensors in the checkpoint")
    return Arrays(state["step"], parse(path, safetensors.numpy.load, files["model"]))


def read_counts(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of `counts.safetensors` in one checkpoint folder, verified and memory-mapped.

    Tables may be larger than what is read of them, and processes that read the same share them.
    Raises: CheckpointError saying which file is wrong and how.
    """
    _, files = read_files(path, read_one=mapped)
    if "counts" not in files:
        raise CheckpointError(f"{path}: no counts.safetensors in the checkpoint")
    return parse(path, arrays_in, files["counts"])


def mapped(path: Path, size: int) -> bytes | mmap.mmap:
    """A file's bytes: in place where they are arrays, which are worth it."""
    return map_regular(path) if size and path.suffix == SUFFIX else read_regular(path, size)


def arrays_in(data: bytes | mmap.mmap) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, where they lie: its own reader copies them.

    Raises: ValueError, KeyError or TypeError for anything else.
    Source: the format in safetensors' README; the dtypes are those that counts have.
    """
    import numpy as np

    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data):
        raise ValueError("a header longer than the file")
    header = parse_json(data[8:start])
    header.pop("__metadata__", None)
    dtypes = {"I64": np.int64, "F32": np.float32, "U8": np.uint8}
    found = {}
    for name, facts in header.items():
        (length,), (begin, end) = facts["shape"], facts["data_offsets"]
        dtype = np.dtype(dtypes[facts["dtype"]])
        if not 0 <= begin <= end <= len(data) - start or end - begin != length * dtype.itemsize:
            raise ValueError(f"{name} lies outside the file")
        found[name] = np.frombuffer(data, dtype, length, start + begin)
    return found


def parse(path: Path, load_bytes: Callable[[Data], Found], data: Data) -> Found:
    """One file's tensors.

    Raises: CheckpointError when it is no safetensors file.
    """
    try:
        return load_bytes(data)
    except (AttributeError, KeyError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: unreadable: {reason(error)[:200]}") from None


def read_files(
    path: Path, read_one: Callable[[Path, int], Data] = read_regular
) -> tuple[dict[str, Any], dict[str, Data]]:
    """The state, and the bytes of each file of tensors by its name without the ending; verified.

    Raises: CheckpointError saying which file is wrong and how.
    """
    contents = read_verified(path, read_one)
    try:
        state = parse_json(bytes(contents.pop("state.json")))
        known = state["format"] in READABLE
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: state.json is unreadable: {error}") from None
    if not known:
        raise CheckpointError(
            f"{path}: in the checkpoint format {state['format']!r}, which this version of hornbook "
            f"({', '.join(map(str, READABLE))}) cannot read; use the version that wrote it"
        )
    kind, _, number = path.name.rpartition("-")
    # Format 1 did not record the kind.
    if (state.get("kind", kind), state.get("step")) != (kind, int(number)):
        raise CheckpointError(
            f"{path}: holds {state.get('kind', 'a checkpoint')} of step {state.get('step')}: the "
            "folder was renamed or exchanged"
        )
    return state, {name.removesuffix(SUFFIX): data for name, data in contents.items()}


def read_verified(path: Path, read_one: Callable[[Path, int], Data]) -> dict[str, Data]:
    """The bytes of every file but the manifest, each against its size and SHA-256.

    Raises: CheckpointError saying which file is wrong and how.
    """
    contents = {}
    for file, (size, sha256) in recorded(path).items():
        try:
            found = file.stat().st_size
            if found != size:
                compare(file, (found, ""), (size, sha256))
            data = read_one(file, size)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: {reason(error)}") from None
        compare(file, (len(data), hashlib.sha256(data).hexdigest()), (size, sha256))
        contents[file.name] = data
    return contents


def verify(path: Path) -> None:
    """`read_verified` for its errors alone: no file is held in memory.

    Raises: CheckpointError saying which file is wrong and how.
    """
    for file, expected in recorded(path).items():
        try:
            with open_regular(file) as opened:
                sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
            compare(file, (file.stat().st_size, sha256), expected)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: {reason(error)}") from None


def recorded(path: Path) -> dict[Path, tuple[int, str]]:
    """Size and SHA-256 of each file by the folder's manifest.

    Raises: CheckpointError when there is no manifest, or it is none.
    """
    try:
        manifest = read_json(path / MANIFEST)
        for name in manifest:
            # Outside the folder, or in messages that would then be of several lines.
            if Path(name).name != name or not name.isprintable():
                raise CheckpointError(f"{path / MANIFEST}: names {name!r}, which is no file of it")
        return {
            path / name: (int(entry["bytes"]), entry["sha256"]) for name, entry in manifest.items()
        }
    except OSError as error:
        raise CheckpointError(f"{path / MANIFEST}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
        raise CheckpointError(f"{path / MANIFEST}: not a manifest") from None


def compare(file: Path, found: tuple[int, str], expected: tuple[int, str]) -> None:
    """See that a file's size and SHA-256 are those recorded.

    Raises: CheckpointError saying which is not.
    """
    if found[0] != expected[0]:
        raise CheckpointError(f"{file}: {found[0]} bytes, expected {expected[0]}")
    if found[1] != expected[1]:
        raise CheckpointError(f"{file}: its SHA-256 is not the one recorded")
