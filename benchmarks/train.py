"""Training at nanoGPT's shapes: tokens a second, share of the machine's peak, and memory.

Each is compared with nanoGPT's recipe in the same run.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice

import torch

from benchmarks.peers.nanogpt import CPU_RECIPE, GPU_RECIPE, NanoGPT, Recipe, train
from benchmarks.table import Row, median_seconds, process
from hornbook.config import Config
from hornbook.kernels import runtime
from hornbook.models.gpt import GPT
from hornbook.models.schema import Schema
from hornbook.optim.optimizer import Optimizers
from hornbook.plan import machine
from hornbook.plan.prepare import prepare

VOCABULARY = 65


HOW = {"off": "eager", "on": "compiled", "c": "in C"}


def measure(*, short: bool = False) -> list[Row]:
    """Steps at both of nanoGPT's shapes, in PyTorch and in C, and memory at the larger shape."""
    rows = []
    if not short:
        # First, because a process inherits the peak memory of its parent.
        ours, theirs = (
            process(["python", "-m", "benchmarks.train", which]).peak_mib
            for which in ("ours", "peer")
        )
        rows.append(Row("nanoGPT's GPU shape: memory", "MiB", ours, theirs, "nanoGPT, eager"))
    peak = matrix_peak(torch.bfloat16, 256 if short else 2048)
    rows.append(Row("matrix products, bfloat16", "GFLOP/s", peak / 1e9))
    small = replace(CPU_RECIPE, n_layer=1, n_embd=64, n_head=2) if short else CPU_RECIPE
    for name, recipe, runs in (
        ("nanoGPT's CPU shape", small, 3 if short else 20),
        ("nanoGPT's GPU shape", GPU_RECIPE, 3),
    )[: 1 if short else 2]:
        hows = ("off",) if short else ("off", "on")
        theirs = {how: peer_speed(recipe, compiled=how == "on", runs=runs) for how in hows}
        for way in choices(recipe, hows):
            ours, flops = our_speed(recipe, way, runs=runs)
            for how in hows if way == "c" else (way,):
                peer = f"nanoGPT, {HOW[how]}"
                speed = Row(f"{name}, {HOW[way]}", "tokens/s", ours, theirs[how], peer)
                rows.append(speed._replace(ceiling=peak / flops, ceiling_name="at the peak"))
            share = [ours * flops / peak, theirs[how] * flops / peak]
            rows.append(Row(f"{name}, {HOW[way]}: of the peak", "share of peak", *share, peer))
    return rows


def choices(recipe: Recipe, hows: Iterable[str]) -> list[str]:
    """The ways to run hornbook's blocks on this machine."""
    precision = machine.choose(settings(recipe)).precision.value
    in_c = not machine.obstacle_to_c(settings(recipe), "cpu", precision)
    return [*hows, *(["c"] if in_c else [])]


def matrix_peak(dtype: torch.dtype, size: int) -> float:
    """Floating-point operations a second of a large square matrix product."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: a @ b, runs=5)


def settings(recipe: Recipe) -> Config:
    """hornbook's settings at a peer's shape."""
    return Config().override(
        n_layer=recipe.n_layer,
        n_head=recipe.n_head,
        n_embd=recipe.n_embd,
        block_size=recipe.block_size,
        batch_size=recipe.batch_size,
        dropout=recipe.dropout,
        device="cpu",
    )


def our_speed(recipe: Recipe, way: str, *, runs: int) -> tuple[float, float]:
    """Tokens a second of training hornbook's GPT at a peer's shape, and FLOPs a token."""
    config = settings(recipe).override(compile=way)
    seconds = median_seconds(stepper(config), runs)
    flops = Schema.of(config.model, VOCABULARY).training_flops(recipe.block_size)
    return recipe.batch_size * recipe.block_size / seconds, flops


def stepper(config: Config) -> Callable[[], None]:
    """One step of training on random tokens, of a new model."""
    chosen = machine.choose(config)
    runtime.keep_freed_memory()
    model = GPT(config.model, VOCABULARY)
    prepare(model, chosen)
    optimizers = Optimizers(model, config.optimizer, chosen.kernels)
    idx = torch.randint(VOCABULARY, (config.train.batch_size, config.model.block_size))

    def step() -> None:
        _, loss = model(idx, idx)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(1e-6)

    return step


def peer_speed(recipe: Recipe, *, compiled: bool, runs: int) -> float:
    """Tokens a second of training nanoGPT at its shape and batch size, in float32."""
    model = NanoGPT(recipe, VOCABULARY)
    if compiled:
        model.compile()
    steps = train(model, torch.randint(VOCABULARY, (100_000,)))
    seconds = median_seconds(lambda: list(islice(steps, 1)), runs)
    return recipe.batch_size * recipe.block_size / seconds


if __name__ == "__main__":
    if sys.argv[1] == "ours":
        our_speed(GPU_RECIPE, "auto", runs=1)
    else:
        peer_speed(GPU_RECIPE, compiled=False, runs=1)
