"""Disks that break: at a chosen operation, at a chosen size, or when the power goes."""

import errno
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hornbook.storage.disk import Disk

When = Literal["before", "midway", "after"]
Blow = Callable[[Path], None]


def die(_: Path) -> None:
    """The end of this process, there and then: no handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> Blow:
    """The system's refusal."""

    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    return refuse


class Breaking(Disk):
    """A disk that strikes at one operation: before it, after it, or midway through its bytes.

    Without `at` it only counts the operations, and remembers what they were. Threads are counted
    together: how many operations there are is always the same, and their order where one thread
    saves and the other trains is not.
    """

    def __init__(self, blow: Blow = die, at: int | None = None, when: When = "before") -> None:
        self.blow, self.at, self.when = blow, at, when
        self.operations: list[str] = []
        self.counting = threading.Lock()
        self.thread = threading.local()

    @contextmanager
    def operation(self, name: str, path: Path) -> Iterator[bool]:
        """One operation; whether this is the one to be struck midway."""
        with self.counting:
            struck = len(self.operations) == self.at
            self.operations.append(f"{name} {path.name}")
        self.thread.path = path
        if struck and self.when == "before":
            self.blow(path)
        yield struck and self.when == "midway"
        if struck and self.when == "after":
            self.blow(path)

    def write(self, path: Path, data: bytes | memoryview) -> None:
        with self.operation("open", path):
            pass
        super().write(path, data)

    def append(self, path: Path, data: bytes | memoryview) -> None:
        with self.operation("open", path):
            pass
        super().append(path, data)

    def write_some(self, descriptor: int, data: memoryview) -> int:
        with self.operation("write", self.thread.path) as midway:
            if midway:
                super().write_some(descriptor, data[: len(data) // 2])
                self.blow(self.thread.path)
            return super().write_some(descriptor, data)

    def sync(self, path: Path) -> None:
        with self.operation("sync", path):
            super().sync(path)

    def sync_folder(self, path: Path) -> None:
        with self.operation("sync_folder", path):
            super().sync_folder(path)

    def rename(self, old: Path, new: Path) -> None:
        with self.operation("rename", new):
            super().rename(old, new)

    def unlink(self, path: Path) -> None:
        with self.operation("unlink", path):
            super().unlink(path)

    def remove_empty_folder(self, path: Path) -> None:
        with self.operation("remove_empty_folder", path):
            super().remove_empty_folder(path)

    def make_one_folder(self, path: Path) -> None:
        with self.operation("make_one_folder", path):
            super().make_one_folder(path)


class Stingy(Disk):
    """A disk that takes a few bytes at a time."""

    def __init__(self, most: int) -> None:
        self.most = most

    def write_some(self, descriptor: int, data: memoryview) -> int:
        return super().write_some(descriptor, data[: self.most])


class Small(Disk):
    """A disk of so many bytes; what is removed makes room again."""

    def __init__(self, capacity: int, root: Path) -> None:
        self.capacity, self.root = capacity, root

    def write_some(self, descriptor: int, data: memoryview) -> int:
        used = sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())
        room = self.capacity - used
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write_some(descriptor, data[:room])


@dataclass
class File:
    """A file's bytes: as programs see them, and as the disk has them."""

    now: bytes = b""
    synced: bytes = b""


@dataclass
class Folder:
    """A folder's names: as programs see them, as the disk has them, and the changes between.

    A change is (name to take away, name to give, what has it); either name may be missing.
    """

    now: dict[str, "File | Folder"] = field(default_factory=dict)
    synced: dict[str, "File | Folder"] = field(default_factory=dict)
    changes: list[tuple[str | None, str | None, "File | Folder"]] = field(default_factory=list)

    def change(self, old: str | None, new: str | None, what: "File | Folder") -> None:
        """Change the names at once for programs, and some day for the disk."""
        self.changes.append((old, new, what))
        apply(self.now, old, new, what)


def apply(
    names: dict[str, File | Folder], old: str | None, new: str | None, what: File | Folder
) -> None:
    """Carry a change out where it still applies."""
    if old is not None and names.get(old) is what:
        del names[old]
    if new is not None:
        names[new] = what


Operation = tuple[str, Path, bytes | Path | None]


class Logging(Disk):
    """A disk that writes down what is done to it, for `after_power_loss`."""

    def __init__(self) -> None:
        self.log: list[Operation] = []

    def promise(self, what: str) -> None:
        """Write down that something is now promised to be kept."""
        self.log.append(("promise", Path(what), None))

    def write(self, path: Path, data: bytes | memoryview) -> None:
        super().write(path, data)
        self.log.append(("write", path, bytes(data)))

    def append(self, path: Path, data: bytes | memoryview) -> None:
        super().append(path, data)
        self.log.append(("append", path, bytes(data)))

    def sync(self, path: Path) -> None:
        super().sync(path)
        self.log.append(("sync", path, None))

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.log.append(("sync_folder", path, None))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.log.append(("rename", old, new))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.log.append(("remove", path, None))

    def remove_empty_folder(self, path: Path) -> None:
        super().remove_empty_folder(path)
        self.log.append(("remove", path, None))

    def make_one_folder(self, path: Path) -> None:
        super().make_one_folder(path)
        self.log.append(("make_folder", path, None))


def tree_after(log: list[Operation], root: Path) -> Folder:
    """The folder `root`, empty before, once all of `log` has been done."""
    tree = Folder()

    def folder(path: Path) -> Folder:
        found: File | Folder = tree
        for name in path.relative_to(root).parts:
            assert isinstance(found, Folder)
            found = found.now[name]
        assert isinstance(found, Folder)
        return found

    for name, path, detail in log:
        if name == "promise":
            continue
        parent, there = folder(path.parent) if path != root else tree, None
        if path != root:
            there = parent.now.get(path.name)
        if name in ("write", "append"):
            assert isinstance(detail, bytes)
            if there is None:
                there = File()
                parent.change(None, path.name, there)
            assert isinstance(there, File)
            there.now = detail if name == "write" else there.now + detail
        elif name == "sync":
            assert isinstance(there, File)
            there.synced = there.now
        elif name == "sync_folder":
            synced = folder(path)
            synced.synced, synced.changes = dict(synced.now), []
        elif name == "make_folder":
            parent.change(None, path.name, Folder())
        elif name == "remove":
            assert there is not None
            parent.change(path.name, None, there)
        else:
            assert isinstance(detail, Path)
            assert there is not None
            assert detail.parent == path.parent
            parent.change(path.name, detail.name, there)
    return tree


def after_power_loss(log: list[Operation], root: Path, into: Path, chance: random.Random) -> None:
    """Make one of the states that a disk may be found in when the power goes after `log`.

    Only what was synced is sure: a file's bytes by `sync`, a folder's names by `sync_folder`. Of
    the other changes of names any may be there and any not, in whatever order; other bytes may be
    there, or those before them, or zeros, block by block, or be cut off.
    """
    kept = chance.choice((0.0, 0.5, 0.9, 1.0))

    def lay(found: File | Folder, path: Path) -> None:
        if isinstance(found, File):
            path.write_bytes(torn(found, kept, chance))
            return
        path.mkdir(exist_ok=True)
        names = dict(found.synced)
        for change in found.changes:
            if chance.random() < kept:
                apply(names, *change)
        for name, inner in names.items():
            lay(inner, path / name)

    lay(tree_after(log, root), into)


def torn(file: File, kept: float, chance: random.Random, block: int = 512) -> bytes:
    """A file's bytes after a power loss."""
    if file.now == file.synced:
        return file.now
    size = chance.choice((len(file.now), len(file.synced), chance.randint(0, len(file.now))))
    pieces = []
    for start in range(0, size, block):
        old = file.synced[start : start + block].ljust(block, b"\0")
        new = file.now[start : start + block].ljust(block, b"\0")
        pieces.append(new if chance.random() < kept else chance.choice((old, bytes(block))))
    return b"".join(pieces)[:size]
