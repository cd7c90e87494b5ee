"""What a training step takes on this machine, by running a few."""

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from hornbook.config import Config
from hornbook.models.language_model import Batch
from hornbook.models.registry import build
from hornbook.models.stack import StackModel
from hornbook.optim.optimizer import Optimizers
from hornbook.plan.costs import joining_of
from hornbook.plan.machine import Machine
from hornbook.plan.prepare import prepare

# Compiling the default's block on two cores (docs/experiments.md), and the share of a step's time
# that is left then.
COMPILE_SECONDS = 22.0
COMPILED_SHARE = 0.73
# After so long a step of each size is enough.
ENOUGH_SECONDS = 5.0


@dataclass(frozen=True)
class StepTime:
    """What a step takes: for each token, for both passes whatever their size, for the update."""

    token_seconds: float
    reading_seconds: float
    update_seconds: float

    def of(self, tokens: int, *, compiled: bool = False) -> float:
        """The seconds of a step of so many tokens; torch.compile speeds up all but the update."""
        reading = tokens * self.token_seconds + self.reading_seconds
        return reading * (COMPILED_SHARE if compiled else 1.0) + self.update_seconds

    def grown(self, growth: float) -> "StepTime":
        """The same of a model so many times as large."""
        return StepTime(*(growth * each for each in dataclasses.astuple(self)))


Timer: TypeAlias = Callable[[Config, int, Machine], StepTime]


def time_step(config: Config, vocab_size: int, machine: Machine) -> StepTime:
    """Time small and somewhat larger steps; the quickest of each size counts.

    There are four of each, and fewer of a large model. The part that does not grow with the size is
    `reading_seconds`. Ranks share a step's tokens.
    """
    device = machine.device.value
    with torch.random.fork_rng(devices=[]):
        network = dataclasses.replace(config.model, with_counts=False)
        model, block_size = build(network, vocab_size), config.model.block_size
        prepare(model, machine)
        if isinstance(model, StackModel):
            model.recompute = config.train.recompute
        optimizers = Optimizers(model, config.optimizer, machine.kernels)
        few = max(1, 256 // block_size)
        many = max(2 * few, 1024 // block_size)
        quickest, updating = {few: math.inf, many: math.inf}, math.inf
        started = clock(device)
        for rows in (many, few) * 4:
            if clock(device) - started > ENOUGH_SECONDS and max(quickest.values()) < math.inf:
                break
            idx_BT = torch.randint(vocab_size, (rows, block_size), device=device)
            begun = clock(device)
            model.training_loss(Batch(idx_BT, idx_BT)).backward()
            read = clock(device)
            optimizers.step(0.0)
            quickest[rows] = min(quickest[rows], read - begun)
            updating = min(updating, clock(device) - read)
    # Noise must not make tokens cost next to nothing.
    row_seconds = max((quickest[many] - quickest[few]) / (many - few), quickest[many] / many / 3)
    reading_seconds = max(0.0, quickest[many] - many * row_seconds)
    row_seconds /= machine.ranks
    if not config.model.with_counts:
        return StepTime(row_seconds / block_size, reading_seconds, updating)
    joining = joining_of(machine.compile.value)
    joined_seconds = joining.token + vocab_size * joining.token_and_entry
    token_seconds = row_seconds / block_size + joined_seconds / machine.ranks
    return StepTime(token_seconds, reading_seconds, updating + joining.step)


def clock(device: str) -> float:
    """The time, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
