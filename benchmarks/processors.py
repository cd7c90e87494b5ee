"""Training and generation on a processor with AVX2 alone, as far as one with more can tell.

Environment variables limit torch, oneDNN and hornbook to AVX2 in a process of its own, where steps
of hornbook's C kernels and of PyTorch take turns; the fastest of each counts. The ceiling is a loop
of fused multiply-adds. All on one thread, and training in CPU time, which other programs distort
less.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.peers.nanogpt import CPU_RECIPE, GPU_RECIPE, Recipe
from benchmarks.sample import CHARACTERS, RECIPES, our_speed, shape_of
from benchmarks.table import Row
from benchmarks.train import VOCABULARY, settings, stepper
from hornbook.infer.native_decoder import NativeDecoder
from hornbook.kernels import processor
from hornbook.kernels.recipe import FLAGS, TARGETS, compiler
from hornbook.models.gpt import GPT
from hornbook.models.schema import Schema

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
# The default model and batch; nanoGPT's larger one.
SHAPES = {
    "the default's shapes": replace(CPU_RECIPE, block_size=128, batch_size=32),
    "10.65 million parameters": GPU_RECIPE,
}
LOOP = """
typedef float floats __attribute__((vector_size(32)));
void fused(long rounds)
{
    floats sum[12] = {0}, a = (floats){0} + 1.0001f;
    for (long n = 0; n < rounds; n++)
        for (int i = 0; i < 12; i++) {
            sum[i] = sum[i] * a + a;
            __asm__ volatile("" : "+x"(sum[i]));
        }
}
"""


def measure(*, short: bool = False) -> list[Row]:
    """Rows for AVX2; none on a processor without it."""
    if "avx2" not in processor.present() or compiler() is None:
        return []
    found = {
        capability: asked("speeds", short, AVX2 | {"ATEN_CPU_CAPABILITY": capability})
        for capability in ("avx2", "avx512")[: 2 if "avx512f" in processor.present() else 1]
    }
    steps = asked("steps", short, AVX2)
    peak = steps.pop("peak")
    rows = [Row("AVX2: fused multiply-adds", "GFLOP/s", peak / 1e9)]
    for name, each in steps.items():
        ours, theirs, flops = (each[part] for part in ("c", "off", "flops"))
        speed = Row(f"AVX2, {name}: training in C", "tokens/s", ours, theirs, "eager")
        rows.append(speed._replace(ceiling=peak / flops, ceiling_name="at the peak"))
        share = [ours * flops / peak, theirs * flops / peak]
        rows.append(Row(f"AVX2, {name}: of the peak", "share of peak", *share, "eager"))
    wide = found.get("avx512", {})
    rows.extend(
        Row(f"AVX2, generation: {name}", "tokens/s", each, wide.get(name), "AVX-512")
        for name, each in found["avx2"].items()
    )
    return rows


def asked(what: str, short: bool, environment: dict[str, str]) -> dict:
    """What this module measures in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.processors", what, *["short"] * short],
        env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def fastest(actions: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """The least CPU seconds of each action, taken in turns."""
    best = dict.fromkeys(actions, float("inf"))
    for _ in range(runs + 1):
        for name, action in actions.items():
            started = time.process_time()
            action()
            best[name] = min(best[name], time.process_time() - started)
    return best


def steps(*, short: bool) -> dict:
    """Tokens a second of training by the kernels and by PyTorch, and FLOPs a token; the peak."""
    found: dict = {"peak": fused_peak(1 if short else 20)}
    for name, shape in SHAPES.items():
        smaller = replace(shape, n_layer=1, n_embd=64, n_head=2, batch_size=2)
        large = shape.n_embd > CPU_RECIPE.n_embd
        found[name] = step_speeds(
            smaller if short else shape, runs=1 if short else 2 if large else 15
        )
    return found


def step_speeds(recipe: Recipe, *, runs: int) -> dict[str, float]:
    """Tokens a second in C ("c") and in PyTorch ("off"), and FLOPs a token."""
    config = settings(recipe).override(precision="float32")
    best = fastest({way: stepper(config.override(compile=way)) for way in ("c", "off")}, runs)
    tokens = recipe.batch_size * recipe.block_size
    flops = Schema.of(config.model, VOCABULARY).training_flops(recipe.block_size)
    return {way: tokens / seconds for way, seconds in best.items()} | {"flops": flops}


def speeds(*, short: bool) -> dict[str, float]:
    """Tokens a second of generation in float32."""
    found = {}
    for name, recipe in list(RECIPES.items())[: 1 if short else 2]:
        shape = shape_of(recipe)
        weights = {key: t.numpy() for key, t in GPT(shape, len(CHARACTERS)).state_dict().items()}
        for rows in (1, 2 if short else 64):
            decoder = NativeDecoder(
                Schema.of(shape, len(CHARACTERS)), weights, context_size=shape.context_size,
                precision="float32", rows=rows, threads=1,
            )  # fmt: skip
            runs = 1 if short or rows > 1 else 5
            found[f"{name}, {'one text' if rows == 1 else f'{rows} texts'}"] = our_speed(
                decoder, shape.block_size, runs
            )
    return found


def fused_peak(runs: int) -> float:
    """Floating-point operations a second of a loop that does nothing else, compiled for AVX2."""
    with tempfile.TemporaryDirectory() as place:
        source, library = Path(place) / "loop.c", Path(place) / "loop.so"
        source.write_text(LOOP)
        subprocess.run([compiler(), *FLAGS, *TARGETS[1].flags, source, "-o", library], check=True)
        loop = ctypes.CDLL(str(library)).fused
        rounds = 1_000_000
        seconds = fastest({"loop": lambda: loop(ctypes.c_long(rounds))}, runs)["loop"]
    return rounds * 12 * 8 * 2 / seconds


if __name__ == "__main__":
    torch.set_num_threads(1)
    function = {"steps": steps, "speeds": speeds}[sys.argv[1]]
    print(json.dumps(function(short="short" in sys.argv)))
