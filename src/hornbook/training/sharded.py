"""A run whose weights are spread over ranks: its passes, checkpoints, and whole model.

Applied from outside: models and optimizers are those of any other run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hornbook.language import msg
from hornbook.models.language_model import Batch, LanguageModel
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.registry import build
from hornbook.models.schema import BLOCKS
from hornbook.optim.muon import own_parts
from hornbook.optim.optimizer import Optimizers
from hornbook.parallel import saving
from hornbook.parallel.fsdp import spread
from hornbook.parallel.group import Group
from hornbook.storage import checkpoint
from hornbook.training.state import is_finite

if TYPE_CHECKING:
    from hornbook.training.trainer import Trainer


class Sharded(LanguageModel):
    """A model of which each rank has a part; all ranks pass through it together.

    FSDP gathers weights where `forward` is called, so that every pass begins there.
    """

    def __init__(self, model: LanguageModel, group: Group) -> None:
        super().__init__(model.vocab_size, model.block_size, model.context_size)
        self.model, self.overlap = model, model.overlap
        blocks = [
            block
            for name, part in model.named_modules()
            if isinstance(part, nn.ModuleList) and name.rpartition(".")[2] == BLOCKS
            for block in part
        ]
        spread(self, blocks, group, model.compute_dtype)

    def forward(self, method: str, *operands: Any) -> Any:
        """A method of the model."""
        return getattr(self.model, method)(*operands)

    def training_loss(self, batch: Batch) -> Tensor:
        """The model's own."""
        loss: Tensor = self("training_loss", batch)
        return loss

    def token_losses(self, idx_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The model's own."""
        nats: Tensor = self("token_losses", idx_BT, targets_BT)
        # FSDP keeps what is outside the blocks for a backward pass, which does not follow.
        reshard: Any = self
        reshard.reshard()
        return nats


def shard(trainer: Trainer, source: Path | None) -> None:
    """Spread a run's weights, which all ranks have, and fill them from a checkpoint if it has one.

    Raises: CheckpointError, RankError.
    """
    state, config, group = trainer.state, trainer.config, group_of(trainer)
    trainer.sharded = Sharded(state.model, group)
    state.optimizers = Optimizers(state.model, config.optimizer, None)
    group.sharded = True
    state.optimizers.share(group)
    if source:
        state.optimizers.begin()
        saving.load(source, tensors(trainer, "step"), group)


def tensors(trainer: Trainer, kind: str) -> dict[str, dict[str, Tensor]]:
    """This rank's part of what a checkpoint of a kind holds."""
    state = trainer.state
    found = {"model": {name: each.detach() for name, each in state.model.state_dict().items()}}
    return found if kind == "best" else found | {"optimizer": state.optimizers.tensors()}


@torch.no_grad()
def all_finite(trainer: Trainer) -> bool:
    """Whether all of the state is finite, on all ranks."""
    parts = [own_parts(list(each.values())) for each in tensors(trainer, "step").values()]
    broken = sum(not is_finite(each) for part in parts for each in part)
    return not trainer.ranks.total(torch.tensor(float(broken)))


def save(trainer: Trainer, kind: str, facts: dict[str, Any], *, keep_last: int = 1) -> None:
    """Save a checkpoint by all ranks; rank 0, which has the `facts`, checks it and removes others.

    In the background, where the run saves so: then each rank's thread writes, and that of rank 0
    waits for the others' notes.
    Raises: CheckpointError when a rank cannot write; RankError.
    """
    group, saves, step = group_of(trainer), trainer.saves, trainer.state.step
    final = trainer.folder.checkpoints / f"{kind}-{step:08d}"
    state = {**facts, "format": checkpoint.SHARDED, "kind": kind, "step": step}
    saves.begin(step)
    writer = saving.plan(final, tensors(trainer, kind), group, trainer.disk, saves.copy)

    def promote() -> None:
        writer.promote(state)
        checkpoint.check_files(final)
        checkpoint.prune(final, keep_last, trainer.disk)

    saves.add(writer.write, writer.write)
    if not saves.background:  # the notes would say of a rank that died only that it is silent
        group.meet(msg("all ranks to save"))
    if group.rank == 0:
        saves.add(promote, writer.give_up)


def settle(trainer: Trainer) -> None:
    """Wait until all ranks have written their parts of what is being saved. Raises: RankError."""
    group = group_of(trainer)
    if group.rank:
        trainer.saves.wait()
    group.meet(msg("all ranks to save"))


def group_of(trainer: Trainer) -> Group:
    """The ranks of a run that has several."""
    assert isinstance(trainer.ranks, Group)  # noqa: S101 - no other run comes here
    return trainer.ranks


def whole_model(trainer: Trainer) -> LanguageModel | None:
    """The model with all weights, for rank 0; the other ranks send theirs.

    Raises: RankError.
    """
    state, made = trainer.state, None
    if trainer.ranks.rank == 0:
        model = state.model
        counted = model.counts.ngram_model() if isinstance(model, GPTWithCounts) else None
        with torch.random.fork_rng(devices=[]):
            made = build(trainer.config.model, model.vocab_size, counted)
    weights = dict(made.named_parameters()) if made else {}
    with torch.no_grad(), trainer.ranks.passing():
        for name, part in state.model.named_parameters():
            gather: Any = part
            found = gather.full_tensor()
            if made:
                weights[name].copy_(found)
    return made
