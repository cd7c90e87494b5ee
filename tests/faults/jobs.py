"""What the trials' processes do: train a very small model, or run a command, as a user would."""

import hashlib
import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

import torch
from disks import Breaking, When, die, fail

import hornbook as hb
from hornbook import cli
from hornbook import training as engine
from hornbook.config import Config
from hornbook.errors import HornbookError
from hornbook.ngram.suffix_array import SuffixArray
from hornbook.parallel import Job, join
from hornbook.storage import checkpoint, lock
from hornbook.storage.checkpoint import Checkpoint
from hornbook.storage.disk import Disk
from hornbook.training.ranks import attend, lead

TEXT = "to be, or not to be: that is the question. whether 'tis nobler in the mind\n" * 30
STEPS = 12
INTERVAL = 2

# As small as shows everything: dropout, so that a lost random state would show in the weights;
# accumulation; both optimizers; a checkpoint every other step, so that much of the time is saving.
SETTINGS: dict[str, object] = {
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 8,
    "dropout": 0.2,
    "batch_size": 2,
    "gradient_accumulation": 2,
    "steps": STEPS,
    "checkpoint_interval": INTERVAL,
    "eval_interval": 4,
    "sample_tokens": 3,
    "device": "cpu",
    "precision": "float32",
    "compile": "off",
    "threads": 1,
}


def config(text: Path, **changes: object) -> Config:
    """The trials' settings."""
    return hb.preset("quick").override(corpus=str(text), **SETTINGS | changes)


def write_text(folder: Path) -> Path:
    """The trials' text, in a folder."""
    path = folder / "hamlet.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def hashes(run: Path) -> dict[str, str]:
    """The SHA-256 of a finished run's last weights and optimizer state, and of its best weights."""
    last = max((run / "checkpoints").glob("step-*"))
    best = max((run / "checkpoints").glob("best-*"))
    return {
        f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in (last, best)
        for path in sorted(folder.glob("*.safetensors"))
    }


def warm_up(folder: Path) -> None:
    """Train once for what is set up at first use: 2.6 s the first time, 0.03 s from then on."""
    if "RANKS" in os.environ:
        importlib.import_module("torch._dynamo")
        importlib.import_module("hornbook.training.sharded")
    folder.mkdir()
    text = write_text(folder)
    devnull = os.open(os.devnull, os.O_WRONLY)
    stdout, stderr = os.dup(1), os.dup(2)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    command(["train", str(text), "--out", str(folder / "run"), *flags(steps=2)])
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)


def flags(**changes: object) -> list[str]:
    """The trials' settings as a user types them."""
    given = {name: str(value) for name, value in (SETTINGS | changes).items()}
    return ["--preset", "quick", *(f"--set={name}={value}" for name, value in given.items())]


def say_steps(trainer: engine.Trainer) -> None:
    """Take all steps, saying where they begin and each that is done."""
    say(f"from {trainer.state.step}")
    for metrics in engine.steps(trainer):
        say(f"step {metrics.step}")


def train(
    text: str, run: str, at: int | None = None, when: When = "before", **changes: object
) -> int:
    """Train to the end, from wherever the folder's run is; each step is told at once.

    With `at`, the process kills itself at that operation of the disk.
    """
    disk = Breaking(die, at, when)
    try:
        if (Path(run) / "config.toml").exists():
            trainer = engine.resume(run, disk=disk)
        else:
            trainer = engine.begin(config(Path(text), **changes), out=run, disk=disk)
        say_steps(trainer)
    except HornbookError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    say(f"operations {len(disk.operations)}")
    return 0


def rank(
    text: str,
    run: str,
    rank: int,
    world: int,
    port: int,
    restarts: int = 0,
    at: int | None = None,
    when: When = "before",
    refusal: int | None = None,
    **changes: object,
) -> int:
    """One of the processes of a torchrun command, from wherever the folder's run is.

    With `at`, the process kills itself at that operation of the disk, or is refused it with an
    error of that number.
    """
    be_rank(rank, world, port, restarts)
    blow = die if refusal is None else fail(refusal)
    disk, chosen = Breaking(blow, at, when), config(Path(text), **changes)
    try:
        with join(Job.of_environment(), chosen) as ranks:
            if rank:
                status = attend(ranks, disk)
                say(f"operations {len(disk.operations)}")
                return status
            if (Path(run) / "config.toml").exists():
                trainer = engine.resume(run, disk=disk, sharded=True)
            else:
                trainer = engine.begin(chosen, out=run, disk=disk)
            lead(trainer, ranks)
            say_steps(trainer)
    except HornbookError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    say(f"operations {len(disk.operations)}")
    return 0


def be_rank(rank: int, world: int, port: int, restarts: int = 0) -> None:
    """Set what torchrun sets."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="trial",
        TORCHELASTIC_RESTART_COUNT=str(restarts),
    )  # fmt: skip


def resting(rank: int, world: int, port: int, seconds: float, limit: int) -> int:
    """One of the ranks that wait while rank 0 works alone, longer than their time limit."""
    be_rank(rank, world, port)
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    try:
        with join(Job.of_environment(), Config().override(rank_timeout_seconds=limit)) as ranks:
            ranks.started()
            if rank:
                say(str(ranks.told()))
                return 0
            ranks.rest()
            say("alone")
            time.sleep(seconds)
            ranks.tell("step", steps=3)
    except HornbookError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def save(folder: str, step: int, at: int | None = None, when: When = "before") -> int:
    """Save a made-up checkpoint; with `at`, the process kills itself at that operation."""
    checkpoint.save(Path(folder), "step", made(step), disk=Breaking(die, at, when))
    return 0


def save_copies(folder: str, at: int | None = None, when: When = "before") -> int:
    """Save a copy index; with `at`, the process kills itself at that operation."""
    SuffixArray.build(TEXT).save(folder, Breaking(die, at, when))
    return 0


def made(step: int) -> Checkpoint:
    """A checkpoint that is its step's and no other's."""
    weights = torch.full((64, 8), float(step))
    return Checkpoint(step, {"model": {"w": weights}, "optimizer": {"w": weights + 1}}, {})


def overwriting(folder: Path, saved: Checkpoint, disk: Disk) -> None:
    """A save that many a script makes: new files over the old ones."""
    contents = dict(checkpoint.packed("step", saved))
    for name, data in contents.items():
        disk.write(folder / "step-00000001" / name, data)


def pruning_first(folder: Path, saved: Checkpoint, disk: Disk) -> None:
    """A save that makes room before it writes."""
    disk.remove(folder / "step-00000001")
    checkpoint.save(folder, "step", saved, disk=disk)


def say(line: str) -> None:
    """Write a line past every buffer, so that it is told though the process dies."""
    os.write(1, f"{line}\n".encode())


def command(arguments: list[str]) -> int:
    """A hornbook command, as from a shell."""
    return cli.run(arguments)


def command_unlocked(arguments: list[str]) -> int:
    """A command by a hornbook that keeps nobody out of a folder: a control."""
    lock.fcntl = None
    return cli.run(arguments)


def command_signalled(
    arguments: list[str],
    at: str,
    number: int,
    entries: int = 0,
    events: int = 0,
    again: float | None = None,
    destroying: bool = False,
) -> int:
    """A command that gets a signal in a chosen phase, and with `again` a second one.

    `at` is "module:function", and `entries` how many times it is entered before; the signal comes
    `events` calls and returns later, the second one `again` seconds after it. A profile function
    watches, and changes nothing. With `destroying` it comes while an object is being destroyed.
    """
    module, _, function = at.partition(":")
    inside = False

    def watch(frame: FrameType, event: str, _: object) -> None:
        nonlocal inside, entries, events
        code, where = frame.f_code, frame.f_globals.get("__name__")
        if not inside and event == "call" and (where, code.co_name) == (module, function):
            entries -= 1
            inside = entries < 0
        if inside:
            events -= 1
            if events < 0:
                sys.setprofile(None)
                say(f"signalled in {where}:{code.co_name}")
                if again is not None:
                    signal_later(os.getpid(), number, again)
                if destroying:
                    Dying(number)
                else:
                    os.kill(os.getpid(), number)

    sys.setprofile(watch)
    return cli.run(arguments)


class Dying:
    """An object during whose end a signal comes."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


def signal_later(pid: int, number: int, seconds: float) -> None:
    """Send a signal from a process of its own, as a second Ctrl-C comes."""
    if os.fork() == 0:
        os.closerange(3, 1024)  # or the run's lock would be ours too, and outlive its holder
        time.sleep(seconds)
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        os._exit(0)


def read_only(run: str, place: str) -> int:
    """Go on with a run, and sample from it, on a disk that has become read-only.

    What is read-only is a file system in memory with a copy of the run: to a superuser, a folder
    without the right to write is like any other.
    """
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    there = shutil.copytree(run, Path(place) / "run")
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    begun = cli.run(["train", "--out", str(Path(place) / "other"), *flags()])
    resumed = cli.run(["train", "--resume", str(there)])
    sampled = cli.run(["sample", str(there), "--max-new-tokens", "3"])
    subprocess.run(["umount", place], check=True)
    sys.stdout.flush()
    say(json.dumps({"begun": begun, "resumed": resumed, "sampled": sampled}))
    return 0


def train_by_a_wild_clock(text: str, run: str, seed: int) -> int:
    """`train`, by a clock that jumps for days, forward and back, at every look.

    No program can set its machine's clock without harm to others, so here, in a process of its
    own, the clock itself is replaced; the monotonic one cannot jump, by definition.
    """
    chance = random.Random(seed)
    wild = lambda: 1.8e9 + chance.uniform(-1e8, 1e8)  # noqa: E731
    time.time = wild
    time.time_ns = lambda: int(wild() * 1e9)
    return train(text, run)


def full_disk(text: str, place: str, size: int, **changes: object) -> int:
    """Train on a disk of `size` bytes, then make room and go on; what came of it as JSON lines.

    The disk is a file system in memory, mounted where only this process's family sees it.
    """
    run = Path(place) / "run"
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place]
    subprocess.run(mounted, check=True)
    start = ["train", text, "--out", str(run), "--quiet", *flags(**changes)]
    status = cli.run(start)
    found = checkpoint.folders(run / "checkpoints", "step")
    kept = [checkpoint.read(path).step for path in found]
    subprocess.run(["mount", "-o", "remount,size=100m", place], check=True)
    again = ["train", "--resume", str(run), "--quiet"] if (run / "config.toml").exists() else start
    rest = cli.run(again)
    ended = hashes(run) if rest == 0 else None
    subprocess.run(["umount", place], check=True)
    say(json.dumps({"status": status, "kept": kept, "rest": rest, "hashes": ended}))
    return 0
