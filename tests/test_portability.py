"""hornbook where POSIX is not: what Windows and macOS lack is hidden from a process, which then
trains, resumes and generates.

It cannot show what else differs there; docs/processors.md lists what was never run.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment
from small import TEXT

# These choose by what they find when they are imported.
HIDDEN = """
import ctypes, errno, mmap, os, signal, subprocess, sys, types
import platformdirs, torch
for module in ("fcntl", "resource"):
    sys.modules[module] = None
for holder, names in (
    (os, ("sched_getaffinity", "getuid", "geteuid", "sysconf", "O_NOFOLLOW", "O_NONBLOCK")),
    (mmap, ("MADV_DONTNEED",)),
    (signal, ("SIGHUP",)),
):
    for name in names:
        delattr(holder, name)
load = ctypes.CDLL
class CDLL(load):
    def __init__(self, name, *more, **named):
        if name is None:
            raise TypeError("Windows has no such library")
        super().__init__(name, *more, **named)
ctypes.CDLL = CDLL
held = {}
def locking(descriptor, mode, count):
    place = os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
    holder = held.get(place, descriptor)
    try:
        alive = os.fstat(holder).st_ino == place[0]
    except OSError:
        alive = False
    if holder != descriptor and alive:
        raise OSError(errno.EACCES, "Permission denied")
    held[place] = descriptor
msvcrt = types.ModuleType("msvcrt")
msvcrt.LK_NBLCK, msvcrt.locking = 2, locking
if "--with-msvcrt" in sys.argv:
    sys.modules["msvcrt"] = msvcrt
"""
LIFE = """
from hornbook import cli
from hornbook.errors import CheckpointError
from hornbook.kernels.library import NativeUnavailableError, openmp
from hornbook.storage import lock
from pathlib import Path
assert lock.fcntl is None and (lock.windows is not None) == ("--with-msvcrt" in sys.argv)
try:
    openmp()
except NativeUnavailableError:
    pass
else:
    raise AssertionError("the process still sees its own symbols")
small = "--set n_layer=1 --set n_embd=32 --set n_head=2 --set block_size=16 --set batch_size=2"
train = ["train", "hamlet.txt", *small.split(), "--out", "run", "--steps"]
for command in (
    [*train, "4", "--set", "eval_interval=2", "--set", "sample_tokens=5"],
    ["train", "--resume", "run", "--steps", "6"],
    ["sample", "run", "--max-new-tokens", "20"],
    ["verify", "run"],
    ["doctor"],
):
    status = cli.run(command)
    assert status == 0, (command, status)
if lock.windows:
    with lock.Lock(Path("run")):
        try:
            lock.Lock(Path("run")).acquire()
        except CheckpointError as error:
            assert f"process {os.getpid()} on" in str(error), error
        else:
            raise AssertionError("two writers")
    lock.Lock(Path("run")).acquire()
"""


@pytest.mark.parametrize("system", ["as Windows has it", "with no locks at all"])
def test_a_run_needs_nothing_of_posix(system: str, tmp_path: Path) -> None:
    (tmp_path / "hamlet.txt").write_text(TEXT, encoding="utf-8")
    more = ["--with-msvcrt"] if system == "as Windows has it" else []
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", HIDDEN + LIFE, *more],
        cwd=tmp_path, env=environment(tmp_path.parent), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert facts["steps"] == 6
