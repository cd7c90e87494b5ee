"""One run trained by several processes: rank 0 leads it, and the others attend.

Models and optimizers know nothing of it: this module gives them what they exchange with the other
ranks. Rank 0 trains as a process on its own does, and the others obey its orders. All ranks see the
run's folder, from which the others take settings and tokenizer; rank 0 alone writes there.
"""

import json
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from hornbook import __version__
from hornbook.config import Config
from hornbook.errors import CheckpointError, HornbookError, HornbookWarning, NonFiniteLossError
from hornbook.parallel import Job, Ranks
from hornbook.plan import machine
from hornbook.runs.folder import RunFolder, run_text, run_tokenizer
from hornbook.runs.load import load
from hornbook.runs.result import exact_losses
from hornbook.storage.disk import DISK
from hornbook.storage.lock import Lock
from hornbook.text.dataset import prepare
from hornbook.training.loop import validation_loss
from hornbook.training.step import train_step
from hornbook.training.trainer import Trainer, assemble


def compare(ranks: Ranks, config: Config, resume: Path | None) -> None:
    """Check that all ranks were started alike. Raises: RankError."""
    settings = {
        f"{section}.{name}": repr(value)
        for section, fields in vars(config).items()
        for name, value in vars(fields).items()
    }
    versions = {"hornbook": __version__, "torch": torch.__version__}
    ranks.agree("settings", settings | versions | {"--resume": str(resume)})


def lead(trainer: Trainer, ranks: Ranks) -> None:
    """Rank 0: have the others join a run that is about to train, with its text and weights.

    Raises: RankError for a lost rank, or one that has another text.
    """
    if ranks.world == 1:
        return
    optimizer = trainer.state.optimizers.tensors()
    ranks.tell(
        "train",
        folder=str(trainer.folder.path.resolve()),
        step=trainer.state.step,
        optimizer={name: list(value.shape) for name, value in optimizer.items()},
    )
    ranks.agree("text", {"text": trainer.corpus.sha256})
    share(trainer, ranks, list(optimizer.values()))


def share(trainer: Trainer, ranks: Ranks, optimizer: list[torch.Tensor]) -> None:
    """Give a run its ranks, all of which then have rank 0's state."""
    # One seed gives other bits on another kind of processor, so that weights are sent.
    ranks.share([*trainer.state.model.state_dict().values(), *optimizer])
    trainer.ranks = ranks
    trainer.state.optimizers.share(ranks)
    ranks.started()


def attend(ranks: Ranks) -> int:
    """Any other rank: do as rank 0 says until it ends; returns the exit status.

    Raises: RankError when rank 0 or another rank is lost.
    """
    trainer: Trainer | None = None
    warnings.simplefilter("ignore", HornbookWarning)  # rank 0 has said it
    with ranks.signals_noted():
        while True:
            told = ranks.told()
            order = told["order"]
            if order == "end":
                return int(told["status"])
            if order == "train":
                trainer = enter(ranks, told)
            elif trainer is not None:
                obey(trainer, order, told)


def obey(trainer: Trainer, order: str, told: dict[str, Any]) -> None:
    """Do this rank's share of one order."""
    if order == "step":
        trainer.state.steps = told["steps"]
        with suppress(NonFiniteLossError):  # rank 0 has it too, and decides
            train_step(trainer)
    elif order == "evaluate":
        validation_loss(trainer)
    elif order == "gather":
        trainer.state.optimizers.gather()
    elif order == "measure":
        trainer.state.optimizers.forget()
        best = load(trainer.folder.path, device=trainer.machine.device.value)
        exact_losses(best, trainer.dataset, trainer.ranks)


def enter(ranks: Ranks, told: dict[str, Any]) -> Trainer:
    """The run that rank 0 leads, in its state.

    Raises: HornbookError, on rank 0 too, where this rank cannot train it.
    """
    folder = RunFolder(Path(told["folder"]))
    try:
        if not folder.config.exists():
            raise CheckpointError(
                f"{folder.path} is not on this machine: all ranks need one file system for runs"
            )
        config = folder.settings()
        corpus = run_text(folder, config)
        dataset = prepare(corpus, config.data, run_tokenizer(folder))
        trainer = assemble(
            config, machine.choose(config), corpus, dataset, folder,
            lock=Lock(folder.path), disk=DISK, saving=False,
        )  # fmt: skip
    except HornbookError as error:
        ranks.agree("text", {"error": str(error)})
        raise
    ranks.agree("text", {"text": corpus.sha256})
    state = trainer.state
    state.step = told["step"]
    optimizer = {name: torch.zeros(shape) for name, shape in told["optimizer"].items()}
    device = trainer.machine.device.value
    optimizer = {name: value.to(device) for name, value in optimizer.items()}
    share(trainer, ranks, list(optimizer.values()))
    if optimizer:
        state.optimizers.load_tensors(optimizer)
    return trainer


def unfinished_run(job: Job, out: Path | None) -> Path | None:
    """The run of a torchrun job that has begun before: its processes were started again.

    One with a result is unfinished only where torchrun says that it restarts its processes.
    """
    if not job.name:
        return None
    found: list[tuple[float, Path]] = []
    for path in [out] if out else Path("runs").glob("*"):
        folder = RunFolder(path)
        with suppress(HornbookError, OSError):
            began = folder.config.stat().st_mtime
            same = folder.environment_facts().get("torchrun") == job.name
            if same and (job.restarts or not folder.result.exists()):
                found.append((began, path))
    return max(found)[1] if found else None


def note_failure(trainer: Trainer, cause: str) -> None:
    """Append why ranks stopped, or went on, to the run's failures.jsonl: torchrun's status is 1."""
    row = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": trainer.state.step,
        "ranks": trainer.ranks.job.world,
        "restarts": trainer.ranks.job.restarts,
        "cause": cause,
    }
    with suppress(OSError):  # the cause is on stderr too
        trainer.disk.append(trainer.folder.failures, f"{json.dumps(row)}\n".encode())
