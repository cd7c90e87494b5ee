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
from hornbook.language import msg
from hornbook.models.ngram import N_PARTS, CrossFit, NGramLanguageModel
from hornbook.parallel import Job, Ranks
from hornbook.parallel.ranks import check_sharding
from hornbook.plan import counted_part, learned_part, machine
from hornbook.plan.prepare import prepare as apply_choices
from hornbook.runs.folder import RunFolder, run_text, run_tokenizer
from hornbook.runs.load import load, load_counts, save_counts
from hornbook.runs.result import exact_losses
from hornbook.storage.disk import DISK, UNFINISHED, Disk
from hornbook.storage.lock import Lock
from hornbook.text.dataset import Dataset, prepare
from hornbook.training.loop import validation_loss
from hornbook.training.step import train_step
from hornbook.training.trainer import Trainer, assemble

# The n-grams of a run's parts on the way to the other ranks: hidden, and swept away where a crash
# leaves them.
PARTS = f"{UNFINISHED}parts"


def compare(ranks: Ranks, config: Config, resume: Path | None) -> None:
    """Check that all ranks were started alike; then the others wait for rank 0 to begin a run.

    Raises: RankError.
    """
    settings = {
        f"{section}.{name}": repr(value)
        for section, fields in vars(config).items()
        for name, value in vars(fields).items()
    }
    versions = {"hornbook": __version__, "torch": torch.__version__}
    ranks.agree(msg("settings"), settings | versions | {"--resume": str(resume)})
    ranks.rest()  # reading, counting and planning


def lead(trainer: Trainer, ranks: Ranks) -> None:
    """Rank 0: have the others join a run that is about to train, with its text and weights.

    Raises: RankError for a lost rank, or one that has another text.
    """
    if ranks.world == 1:
        return
    check_sharding(trainer.config, ranks.world)
    optimizer = trainer.state.optimizers.tensors()
    parts = hand_over(trainer, trainer.cross_fit) if trainer.cross_fit else None
    ranks.tell(
        "train",
        folder=str(trainer.folder.path.resolve()),
        step=trainer.state.step,
        optimizer={name: list(value.shape) for name, value in optimizer.items()},
        parts=parts and str(parts.resolve()),
        checkpoint=trainer.resumed_from and str(trainer.resumed_from.resolve()),
    )
    ranks.agree(msg("text"), {"text": trainer.corpus.sha256})
    if parts and ranks.job.on_one_machine:
        # All have mapped the file, which lasts as long as a process has it. On a network's file
        # system it would be lost to the other machines, so that `conclude` removes it.
        with suppress(OSError):
            trainer.disk.discard(parts)
    share(trainer, ranks, list(optimizer.values()))


def hand_over(trainer: Trainer, counted: CrossFit) -> Path:
    """Save the n-grams of a run's parts for the other ranks, and map them here too.

    Counting takes minutes and its tables gigabytes: ranks on one machine share the pages.
    """
    tables = counted.models.ngram_model()
    path = save_counts(trainer.folder, tables, trainer.disk, kind=PARTS)
    trainer.cross_fit = cross_fit(trainer.config, trainer.dataset, trainer.folder, path)
    apply_choices(trainer.cross_fit.models, trainer.machine)
    return path


def cross_fit(config: Config, dataset: Dataset, folder: RunFolder, path: Path) -> CrossFit:
    """The n-grams of a run's parts, as `hand_over` has saved them."""
    counted = load_counts(folder, dataset.tokenizer, path, n_models=N_PARTS)
    tokens = counted_part(config.model, dataset)
    first = len(learned_part(config.model, dataset)) - len(tokens)
    models = NGramLanguageModel(counted, config.model.context_size)
    return CrossFit(models, len(tokens), first=first)


def share(trainer: Trainer, ranks: Ranks, optimizer: list[torch.Tensor]) -> None:
    """Give a run its ranks, all of which then have rank 0's state."""
    # One seed gives other bits on another kind of processor, so that weights are sent.
    ranks.share([*trainer.state.model.state_dict().values(), *optimizer])
    trainer.ranks = ranks
    if trainer.config.train.parallel == "fsdp":
        from hornbook.training import sharded

        sharded.shard(trainer, trainer.resumed_from)
    else:
        trainer.state.optimizers.share(ranks)
    ranks.started()


def attend(ranks: Ranks, disk: Disk = DISK) -> int:
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
                trainer = enter(ranks, told, disk)
            elif trainer is not None:
                obey(trainer, order, told)


def obey(trainer: Trainer, order: str, told: dict[str, Any]) -> None:
    """Do this rank's share of one order."""
    if order == "step":
        trainer.state.steps = told["steps"]
        trainer.saves.check()  # the copy of what is written is given up
        with suppress(NonFiniteLossError), trainer.ranks.passing():
            train_step(trainer)  # rank 0 has the same error, and decides
    elif order == "evaluate":
        validation_loss(trainer)
    elif order == "gather":
        trainer.state.optimizers.gather()
    elif order in ("finite", "save", "settle", "whole"):
        obey_sharded(trainer, order, told)
    elif order == "measure":
        trainer.state.optimizers.forget()
        trainer.ranks.sharded = False  # the best weights are loaded whole
        best = load(trainer.folder.path, device=trainer.machine.device.value)
        exact_losses(best, trainer.dataset, trainer.ranks)


def obey_sharded(trainer: Trainer, order: str, told: dict[str, Any]) -> None:
    """`obey`, of what needs each rank's part of the weights."""
    from hornbook.training import sharded

    if order == "finite":
        sharded.all_finite(trainer)
    elif order == "whole":
        sharded.whole_model(trainer)
    elif order == "settle":
        sharded.settle(trainer)
    else:
        with suppress(CheckpointError):  # rank 0 has the same error, and decides
            sharded.save(trainer, told["kind"], {})


def enter(ranks: Ranks, told: dict[str, Any], disk: Disk) -> Trainer:
    """The run that rank 0 leads, in its state.

    Raises: HornbookError, on rank 0 too, where this rank cannot train it.
    """
    folder = RunFolder(Path(told["folder"]))
    try:
        if not folder.config.exists():
            raise CheckpointError(
                msg(
                    "{path} is not on this machine: all ranks need one file system for runs",
                    path=folder.path,
                )
            )
        config = folder.settings()
        corpus = run_text(folder, config)
        dataset = prepare(corpus, config.data, run_tokenizer(folder))
        counts = None
        if config.model.reads_counts:
            parts = cross_fit(config, dataset, folder, Path(told["parts"]))
            counts = load_counts(folder, dataset.tokenizer), parts
        trainer = assemble(
            config, machine.choose(config), corpus, dataset, folder,
            lock=Lock(folder.path), disk=disk, counts=counts,
        )  # fmt: skip
    except HornbookError as error:
        ranks.agree(msg("text"), {"error": str(error)})
        raise
    ranks.agree(msg("text"), {"text": corpus.sha256})
    state = trainer.state
    state.step = told["step"]
    trainer.resumed_from = Path(told["checkpoint"]) if told["checkpoint"] else None
    optimizer = {name: torch.zeros(shape) for name, shape in told["optimizer"].items()}
    device = trainer.machine.device.value
    optimizer = {name: value.to(device) for name, value in optimizer.items()}
    share(trainer, ranks, list(optimizer.values()))
    if optimizer and not trainer.sharded:
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
