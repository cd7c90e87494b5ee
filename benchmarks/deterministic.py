"""What `deterministic` costs on this machine, and whether it changes results.

    python -m benchmarks.deterministic
    python -m benchmarks.deterministic --compile
    python -m benchmarks.deterministic --model layernorm

Two equal models take the same steps in turn, one with PyTorch's deterministic algorithms and one
without. The steps are compared in pairs, because the speed of a shared machine changes by a fifth
within a second: whole training runs in turn differed by -16% and +23%, which was only noise.
"""

import argparse
import statistics
import sys
import time

import torch

from hornbook.config import Config, preset
from hornbook.kernels import runtime
from hornbook.models.language_model import LanguageModel
from hornbook.models.registry import build
from hornbook.optim.optimizer import Optimizers
from hornbook.plan import machine
from hornbook.plan.prepare import prepare

VOCABULARY = 65
WARM_UP = 10


class Trained:
    """A model and its optimizer, trained on random batches."""

    def __init__(self, config: Config, *, deterministic: bool) -> None:
        torch.manual_seed(config.train.seed)
        self.config, self.deterministic = config, deterministic
        chosen = machine.choose(config)
        self.device = chosen.device.value
        self.model: LanguageModel = build(config.model, VOCABULARY)
        prepare(self.model, chosen)
        self.optimizers = Optimizers(self.model, config.optimizer, chosen.kernels)

    def step(self, seed: int) -> float:
        """Take one step on a random batch; returns its seconds."""
        torch.manual_seed(seed)
        shape = (self.config.train.batch_size, self.config.model.block_size)
        idx = torch.randint(VOCABULARY, shape, device=self.device)
        started = time.perf_counter()
        with runtime.deterministic(self.deterministic):
            _, loss = self.model(idx, idx)
            loss.backward()
            self.optimizers.step(1.0)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def main() -> None:
    """Print both medians, the cost of the setting, and whether the weights are identical."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="laptop", help="a preset, as hornbook train takes it")
    parser.add_argument("--compile", default="auto", help="how blocks run: c, on or off")
    parser.add_argument("--steps", type=int, default=100, help="pairs of steps")
    arguments = parser.parse_args()
    runtime.keep_freed_memory()
    config = preset(arguments.model).override(dropout=0.1, batch_size=16, compile=arguments.compile)
    pair = [Trained(config, deterministic=each) for each in (True, False)]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(WARM_UP + arguments.steps):
        # The order alternates, because the second one finds the caches warm.
        for each in pair if number % 2 else pair[::-1]:
            seconds[each.deterministic].append(each.step(number))
    on, off = (seconds[each][WARM_UP:] for each in (True, False))
    cost = statistics.median(one / other for one, other in zip(on, off, strict=True)) - 1
    weights = [each.model.parameters() for each in pair]
    same = all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    sys.stdout.write(
        f"deterministic: {1000 * statistics.median(on):.1f} ms a step, without: "
        f"{1000 * statistics.median(off):.1f}; cost {cost:+.1%} (median of {len(on)} pairs); "
        f"weights {'identical' if same else 'different'}\n"
    )


if __name__ == "__main__":
    main()
