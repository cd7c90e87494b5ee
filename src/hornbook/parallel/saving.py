"""Checkpoints that all ranks write and read together, by PyTorch's planner.

torch.distributed.checkpoint plans who writes and reads what (for any number of ranks); here is its
storage: the checkpoint folder of `storage/checkpoint.py`, in shards. Its own storage is not used,
because that keeps its metadata as a pickle, which executes what it is given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import safetensors
import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from hornbook.errors import CheckpointError, reason
from hornbook.language import msg
from hornbook.parallel.group import Group
from hornbook.storage import checkpoint
from hornbook.storage.disk import Disk
from hornbook.storage.shards import in_order, shard_name, whole_name
from hornbook.storage.tensors import DTYPES, pieces

# Takes tensors, and gives them as they will stay until they are written.
Copy: TypeAlias = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
DTYPE_OF = {name: dtype for dtype, name in DTYPES.items()}


@dataclass
class Writer(StorageWriter):
    """One rank's part in a checkpoint: planned by all ranks together, copied, and written later.

    Another thread than the training's may write: it exchanges notes, and no collectives.
    """

    final: Path
    names: list[str]  # of the files, without suffixes
    group: Group
    disk: Disk
    copy: Copy
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def reset(self, checkpoint_id: object = None) -> None:
        """Nothing is kept from one checkpoint to the next."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:  # noqa: ARG003
        """The planner's own question, for a path that it would open itself."""
        return False

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None:
        """Rank 0 makes the folder; the others write only once the plan is made."""
        if is_coordinator:
            checkpoint.open_folder(self.final, self.disk)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """As they are: each rank has files of its own."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Copy what this rank is to write."""
        tensors: dict[str, dict[str, Tensor]] = {name: {} for name in self.names}
        for item in plan.items:
            file, _, name = item.index.fqn.partition("/")
            rows: Tensor = planner.resolve_data(item)  # pyrefly: ignore[bad-assignment]
            if rows.numel():
                tensors[file][name] = rows.detach()
        self.tensors = {file: self.copy(rows) for file, rows in tensors.items()}
        nothing: Future[list[WriteResult]] = Future()
        nothing.set_result([])
        return nothing

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Nothing is written yet."""

    def write(self) -> None:
        """Write and sync this rank's files; rank 0 gets a note of their hashes, or of the error."""
        try:
            files = dict(map(self.write_file, self.tensors))
        except OSError as error:
            self.note(done=True, error=reason(error))
        else:
            self.note(done=True, files=files)
        self.tensors = {}

    def write_file(self, file: str) -> tuple[str, dict[str, Any]]:
        """Write one file, durably; its name, and what the manifest has of it."""
        name = shard_name(file, self.group.rank + 1, self.group.world) + checkpoint.SUFFIX
        path = checkpoint.unfinished(self.final) / name
        size, digest = 0, hashlib.sha256()
        for data in pieces(self.tensors[file]):
            (self.disk.append if size else self.disk.write)(path, data)
            size += len(data)
            digest.update(data)
            self.note(file=name, bytes=size)  # a sign of life
        self.disk.sync(path)
        return name, {"bytes": size, "sha256": digest.hexdigest()}

    def note(self, **facts: object) -> None:
        """Leave a note for `promote`."""
        self.group.notes.leave(self.final.name, facts)

    def promote(self, state: dict[str, Any]) -> None:
        """Rank 0: once all have synced their files, write the others, and give the folder its name.

        Raises: CheckpointError when a rank could not write; RankError.
        """
        notes = self.group.collect(self.final.name)
        failed = [
            f"rank {rank}: {note['error']}" for rank, note in enumerate(notes) if "error" in note
        ]
        if failed:
            raise self.refused(failed[0])
        manifest = {name: entry for note in notes for name, entry in note["files"].items()}
        contents = {checkpoint.STATE: json.dumps(state).encode()}
        manifest |= checkpoint.manifest_of(contents)
        contents[checkpoint.MANIFEST] = json.dumps(manifest, indent=1).encode()
        try:
            for name, data in contents.items():
                path = checkpoint.unfinished(self.final) / name
                self.disk.write(path, data)
                self.disk.sync(path)
            checkpoint.promote(self.final, self.disk)
        except OSError as error:
            raise self.refused(f"rank 0: {reason(error)}") from None

    def give_up(self) -> None:
        """Rank 0: remove what all have written. Raises: RankError."""
        self.group.collect(self.final.name)
        with suppress(OSError):
            self.disk.remove(checkpoint.unfinished(self.final))

    def refused(self, why: str) -> CheckpointError:
        """The error of a save that did not succeed; rank 0 removes what there is of it."""
        if self.group.rank == 0:
            with suppress(OSError):
                self.disk.remove(checkpoint.unfinished(self.final))
        return CheckpointError(
            msg(
                "{final}: cannot save the checkpoint: {why}; earlier checkpoints are intact. "
                "Free some space or choose another folder with --out",
                final=self.final,
                why=why,
            )
        )


class Reader(StorageReader):
    """A rank's part in reading a folder, in shards or not: the rows that it needs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = checkpoint.read_manifest(path)
        self.files: dict[str, Any] = {}
        self.checked: set[str] = set()
        self.places: dict[MetadataIndex, str] = {}

    def reset(self, checkpoint_id: object = None) -> None:
        """One reader reads one folder."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:  # noqa: ARG003
        """As the writer's."""
        return False

    def opened(self, name: str) -> Any:
        """One of the files, mapped. Raises: CheckpointError."""
        if name not in self.files:
            path = self.path / f"{name}{checkpoint.SUFFIX}"
            try:
                self.files[name] = safetensors.safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(msg("{path}: {why}", path=path, why=reason(error))) from None
        return self.files[name]

    def read(self, index: MetadataIndex, cut: tuple[slice, ...]) -> Tensor:
        """Some rows, of a file that has been checked against the manifest.

        Raises: CheckpointError.
        """
        file, name = self.places[index], index.fqn.partition("/")[2]
        path = self.path / f"{file}{checkpoint.SUFFIX}"
        if file not in self.checked:
            checkpoint.check_file(path, *self.entries[path])
            self.checked.add(file)
        found: Tensor = (
            self.opened(file).get_slice(name)[cut] if cut else self.opened(file).get_tensor(name)
        )
        return found

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """What stands where, from the headers of the files."""
        names = [path.stem for path in self.entries if path.suffix == checkpoint.SUFFIX]
        found: dict[str, TensorStorageMetadata] = {}
        for file in [name for names in in_order(names).values() for name in names]:
            opened = self.opened(file)
            for name in opened.keys():  # noqa: SIM118 - no mapping
                rows = opened.get_slice(name)
                self.add(found, f"{whole_name(file)}/{name}", file, rows)
        return Metadata(dict(found))

    def add(self, found: dict[str, TensorStorageMetadata], name: str, file: str, rows: Any) -> None:
        """Put a tensor's next rows below those that were found before."""
        shape, dtype = rows.get_shape(), DTYPE_OF[rows.get_dtype()]
        before = found.get(name)
        first = before.size[0] if before else 0
        chunk = ChunkStorageMetadata(
            torch.Size([first, *(0 for _ in shape[1:])] if shape else ()), torch.Size(shape)
        )
        whole = torch.Size([first + shape[0], *shape[1:]] if shape else ())
        chunks = [*(before.chunks if before else ()), chunk]
        found[name] = TensorStorageMetadata(TensorProperties(dtype=dtype), whole, chunks)
        self.places[MetadataIndex(name, chunk.offsets)] = file

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *_: Any, **__: Any
    ) -> None:
        """Nothing more than `read_metadata` has found."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy each piece to where the planner wants it."""
        for item in plan.items:
            cut = tuple(
                slice(start, start + length)
                for start, length in zip(item.storage_offsets, item.lengths, strict=True)
            )
            target = planner.resolve_tensor(item).detach()
            target.copy_(self.read(item.storage_index, cut))
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def plan(
    final: Path, files: dict[str, dict[str, Tensor]], group: Group, disk: Disk, copy: Copy
) -> Writer:
    """Plan a checkpoint folder by all ranks, and copy what this one will write.

    Raises: CheckpointError on all ranks when there is no room for the folder; RankError.
    """
    writer = Writer(final, list(files), group, disk, copy)
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        with group.waiting_for(msg("all ranks to plan a checkpoint")):
            dcp.save(flat(files), storage_writer=writer, planner=planner, process_group=group.group)
    except CheckpointException as error:
        raise writer.refused(first_of(error)) from None
    return writer


def load(path: Path, files: dict[str, dict[str, Tensor]], group: Group) -> None:
    """Fill these tensors from a checkpoint folder, each rank its rows.

    Raises: CheckpointError on all ranks when one cannot read, or they do not fit; RankError.
    """
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        with group.waiting_for(msg("all ranks to read the checkpoint")):
            dcp.load(
                flat(files), storage_reader=Reader(path), planner=planner, process_group=group.group
            )
    except CheckpointException as error:
        raise CheckpointError(msg("{path}: {why}", path=path, why=first_of(error))) from None


def flat(files: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors by file and name, as the planner has them."""
    return {
        f"{file}/{name}": tensor
        for file, tensors in files.items()
        for name, tensor in tensors.items()
    }


def first_of(error: CheckpointException) -> str:
    """The first rank that failed, and why."""
    rank, (cause, _) = min(error.failures.items())
    why = reason(cause) if isinstance(cause, Exception) else cause
    return msg("rank {rank}: {why}", rank=rank, why=why)
