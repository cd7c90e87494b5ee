"""The disk: whole writes or none, names that are durable, and leftovers swept."""

import errno
import os
from pathlib import Path

import pytest

from hornbook.errors import CheckpointError
from hornbook.storage.disk import Disk, write_atomically
from hornbook.storage.lock import Lock


class Recording(Disk):
    """Notes the order of what it is asked for."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def sync(self, path: Path) -> None:
        self.done.append(f"sync {path.name}")
        super().sync(path)

    def sync_folder(self, path: Path) -> None:
        self.done.append(f"sync folder {path.name}")
        super().sync_folder(path)

    def rename(self, old: Path, new: Path) -> None:
        self.done.append(f"rename {old.name} {new.name}")
        super().rename(old, new)


class Stingy(Disk):
    """Takes three bytes at a time."""

    def write_some(self, descriptor: int, data: memoryview) -> int:
        return super().write_some(descriptor, data[:3])


class Full(Disk):
    """Takes nothing."""

    def write_some(self, descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_short_write_is_gone_on_with(tmp_path: Path) -> None:
    disk = Stingy()
    disk.write(tmp_path / "a", b"0123456789")
    disk.append(tmp_path / "a", b"abcdef")
    assert (tmp_path / "a").read_bytes() == b"0123456789abcdef"
    disk.write(tmp_path / "a", b"over")
    assert (tmp_path / "a").read_bytes() == b"over"


def test_a_file_is_durable_before_it_gets_its_name(tmp_path: Path) -> None:
    disk = Recording()
    write_atomically(tmp_path / "a", b"data", disk)
    assert disk.done == ["sync .writing-a", "rename .writing-a a", f"sync folder {tmp_path.name}"]


def test_a_disk_that_refuses_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(CheckpointError, match=r"a: cannot write 5 bytes: No space"):
        write_atomically(tmp_path / "a", b"newer", Full())
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_each_folder_made_is_durable_in_the_one_above(tmp_path: Path) -> None:
    disk = Recording()
    disk.make_folder(tmp_path / "a" / "b")
    assert disk.done == [f"sync folder {tmp_path.name}", "sync folder a"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="in the way"):
        disk.make_folder(tmp_path / "file" / "b")


def test_a_removal_cut_short_is_swept_and_never_looks_whole(tmp_path: Path) -> None:
    class CutShort(Disk):
        def unlink(self, path: Path) -> None:
            raise OSError(errno.EIO, "cut")

    folder = tmp_path / "step-00000001"
    folder.mkdir()
    for name in ("x", "y"):
        (folder / name).write_bytes(b"")
    (tmp_path / ".writing-config.toml").write_bytes(b"")
    with pytest.raises(OSError, match="cut"):
        CutShort().discard(folder)
    assert not folder.exists()
    Disk().sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_link_is_removed_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    Disk().remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    first, second = Lock(tmp_path), Lock(tmp_path)
    first.acquire()
    first.acquire()
    with pytest.raises(CheckpointError, match=f"process {os.getpid()} on .* is training it"):
        second.acquire()
    first.release()
    second.acquire()
    del second
    first.acquire()


def test_a_lock_in_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write here"):
        Lock(tmp_path / "missing").acquire()
