"""What the trials' processes do: train a very small model, or run a command, as a user would."""

import hashlib
import os
import sys
from pathlib import Path
from types import FrameType

import hornbook as hb
from hornbook import cli
from hornbook import training as engine
from hornbook.config import Config
from hornbook.errors import HornbookError

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
    """The SHA-256 of a finished run's last weights and optimizer state."""
    (last,) = (run / "checkpoints").glob(f"step-*{STEPS}")
    return {
        name: hashlib.sha256((last / f"{name}.safetensors").read_bytes()).hexdigest()
        for name in ("model", "optimizer")
    }


def warm_up(folder: Path) -> None:
    """Train once for what is set up at first use: 2.6 s the first time, 0.03 s from then on."""
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


def train(text: str, run: str, **changes: object) -> int:
    """Train to the end, from wherever the folder's run is; each step is told at once."""
    try:
        if (Path(run) / "config.toml").exists():
            training = engine.resume(run)
        else:
            training = engine.begin(config(Path(text), **changes), out=run)
        say(f"from {training.step}")
        for metrics in engine.steps(training):
            say(f"step {metrics.step}")
    except HornbookError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def say(line: str) -> None:
    """Write a line past every buffer, so that it is told though the process dies."""
    os.write(1, f"{line}\n".encode())


def command(arguments: list[str]) -> int:
    """A hornbook command, as from a shell."""
    return cli.run(arguments)


def command_signalled(
    arguments: list[str], at: str, entries: int, events: list[int], number: int
) -> int:
    """A command that gets a signal in a chosen phase.

    `at` is "module:function", and `entries` how many times it is entered before; the signal comes
    at each of `events`, in calls and returns counted from there. A profile function watches, and
    changes nothing.
    """
    module, _, function = at.partition(":")
    waiting = sorted(events, reverse=True)
    since = -1

    def watch(frame: FrameType, event: str, _: object) -> None:
        nonlocal since, entries
        code = frame.f_code
        if since < 0:
            here = code.co_name == function and frame.f_globals.get("__name__") == module
            if event != "call" or not here:
                return
            entries -= 1
            if entries >= 0:
                return
        since += 1
        if waiting and since >= waiting[-1]:
            waiting.pop()
            say(f"signalled in {frame.f_globals.get('__name__')}:{code.co_name}")
            os.kill(os.getpid(), number)

    sys.setprofile(watch)
    return cli.run(arguments)
