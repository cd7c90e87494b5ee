"""What the processes of one training exchange. This file has the process on its own.

Rank 0 runs the command as a process on its own does: it plans, writes, shows and reports. The
other ranks wait for its orders (`tell`, `told`). So every decision that depends on a clock, a disk
or a signal is made once. `group.py` has the same methods for several processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hornbook.errors import ConfigError
from hornbook.language import msg
from hornbook.parallel.job import Job

if TYPE_CHECKING:
    from torch import Tensor

    from hornbook.config import Config


class Ranks:
    """A process on its own: it exchanges nothing, and no method changes a bit."""

    def __init__(self, job: Job | None = None) -> None:
        self.job = job or Job()
        self.rank, self.world = 0, 1
        # The ranks whose gradients were not finite in the last step.
        self.broken: list[int] = []
        # Whether each rank has a part of every weight (parallel = "fsdp"): then all pass together.
        self.sharded = False

    def tell(self, order: str, **facts: Any) -> None:
        """Rank 0: what all others are to do next."""

    def rest(self) -> None:
        """Rank 0: what it does until its next order may take longer than the time limit."""

    def told(self) -> dict[str, Any]:
        """Any other rank: rank 0's next order. On its own, a process has nothing to wait for."""
        return {"order": "end", "status": 0}

    def agree(self, about: str, own: Mapping[str, str]) -> None:
        """Check that all ranks have the same. Raises: RankError on rank 0, naming the first."""

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite these with rank 0's."""

    def average(self, parameters: Sequence[Tensor], losses: Tensor) -> Tensor:  # noqa: ARG002
        """Add up the gradients over all ranks, each of which has weighted its own.

        Shapes: losses [M], one a micro-batch -> those of all ranks, [W*M].
        """
        return losses

    def clip(self, parameters: Sequence[Tensor], most: float) -> Tensor:
        """Scale sharded gradients down to a norm of at most so much; returns their norm."""
        raise NotImplementedError  # one process has no sharded gradients

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks of a tensor of one shape."""
        return values

    def mine(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """Those that this rank updates."""
        return list(matrices)

    def exchange(self, matrices: Sequence[Tensor]) -> None:
        """Take every matrix from the rank that has updated it (`mine`)."""

    def whole(self, matrices: Sequence[Tensor], parts: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Whole, this rank's share of something that has the shapes of sharded matrices.

        `parts` are its rows on this rank.
        """
        return list(parts)

    def rows(
        self,
        matrices: Sequence[Tensor],  # noqa: ARG002
        parts: Sequence[Tensor],  # noqa: ARG002
        share: Sequence[Tensor],
    ) -> list[Tensor]:
        """The way back: this rank's rows of all, from each rank's `share` of them."""
        return list(share)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Inside, a pass of a model may wait for the other ranks. Raises: RankError."""
        yield

    def started(self) -> None:
        """From here on a rank that is waited for longer than the time limit counts as lost."""

    def heed(self) -> None:
        """Between two steps: end as the signal says that any rank was sent."""

    @contextmanager
    def signals_noted(self) -> Iterator[None]:
        """Inside, signals wait for `heed`."""
        yield


ALONE = Ranks()


def check_sharding(config: Config, world: int) -> None:
    """Check that weights which are spread over ranks go together with the other settings.

    Raises: ConfigError.
    """
    train, obstacle = config.train, ""
    if train.parallel != "fsdp" or world == 1:
        return
    if train.batch_size < world:
        obstacle = msg(
            "each of {world} ranks needs a block of every batch, and batch_size = {batch_size}: "
            "start fewer, or raise batch_size",
            world=world,
            batch_size=train.batch_size,
        )
    elif config.model.lora_rank is not None:
        obstacle = msg("LoRA's factors are small, and their model frozen: use parallel = 'ddp'")
    if obstacle:
        raise ConfigError(msg("parallel = 'fsdp': {obstacle}", obstacle=obstacle))


@contextmanager
def join(job: Job, config: Config) -> Iterator[Ranks]:
    """The ranks of a torchrun command, until the body ends; rank 0 then sends the others home.

    Raises: ConfigError where the settings are not for several ranks; RankError.
    """
    if job.world == 1 or config.train.parallel == "none":
        yield Ranks(job)
        return
    if config.model.spec.counted:
        raise ConfigError(
            msg(
                "model = {model!r} is counted, not trained: run it without torchrun",
                model=config.model.model,
            )
        )
    check_sharding(config, job.world)
    # Only here: a plain run has no use for it.
    from hornbook.parallel.group import Group

    with Group.joined(job, config) as group:
        yield group
