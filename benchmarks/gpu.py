"""Two goals for one GPU. Never run on one: none was at hand.

    python -m benchmarks.gpu             # needs a GPU, and shakespeare in HORNBOOK_DATA_DIR
    python -m benchmarks.gpu --short     # the same code on a CPU, with small models and few steps

The first: nanoGPT's larger shape on tiny Shakespeare to a validation loss of 1.4697, which its own
recipe reaches on an A100 in about three minutes (its README.md). The goal is 15 s on an H100.
The second: 124 million parameters in bfloat16, blocks compiled, attention by PyTorch's fused
kernel. The goal is 45% MFU.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.minutes import verse
from benchmarks.peers.nanogpt import GPU_RECIPE
from benchmarks.table import Row
from benchmarks.train import matrix_peak, settings
from hornbook.config import Config
from hornbook.kernels.runtime import deterministic
from hornbook.models.gpt import GPT
from hornbook.models.language_model import Batch
from hornbook.models.schema import Schema
from hornbook.optim.optimizer import Optimizers
from hornbook.plan import machine
from hornbook.plan.prepare import prepare
from hornbook.scale import GPU, GPUS, Run, estimate, sized
from hornbook.training import begin
from hornbook.training.loop import steps

LOSS, LOSS_SECONDS, PEER_SECONDS = 1.4697, 15.0, 180.0
MFU = 0.45
VOCABULARY = 50_304


def measure(*, short: bool = False, n_steps: int = 1500) -> list[Row]:
    """Both goals; `n_steps` is how long the schedule of the first is."""
    return [shakespeare(short=short, n_steps=n_steps), *utilisation(short=short)]


def shakespeare(*, short: bool, n_steps: int) -> Row:
    """Seconds from the start, with compilation and evaluations, to the loss."""
    recipe = replace(GPU_RECIPE, steps=n_steps)
    if short:
        recipe = replace(recipe, n_layer=1, n_embd=64, n_head=2, block_size=32, steps=4)
    config = settings(recipe).override(
        corpus="shakespeare", steps=recipe.steps, eval_interval=2 if short else 100,
        checkpoint_interval=recipe.steps, eval_positions=2**17, sample_tokens=0,
        deterministic=False, device="cpu" if short else "cuda",
    )  # fmt: skip
    reached, best, started = None, float("inf"), time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        if short:
            text = Path(place) / "text.txt"
            text.write_text(verse(), encoding="utf-8")
            config = config.override(corpus=str(text), batch_size=4)
        for metrics in steps(begin(config, out=Path(place) / "run")):
            best = min(best, metrics.val_loss or best)
            if best <= LOSS and reached is None:
                reached = time.perf_counter() - started
    seconds = time.perf_counter() - started
    note = f"not reached: {best:.4f} after {recipe.steps} steps" if reached is None else ""
    return Row(
        f"tiny Shakespeare to {LOSS}", "s", reached or seconds, PEER_SECONDS, "nanoGPT, A100",
        LOSS_SECONDS, "goal", note,
    )  # fmt: skip


def utilisation(*, short: bool) -> list[Row]:
    """Tokens a second and MFU of training steps on random tokens, for each batch size."""
    config = Config(model=sized("124m", VOCABULARY)).override(
        compile="on", precision="bfloat16", device="cuda", deterministic=False
    )
    vocabulary, sizes = VOCABULARY, (8, 16, 32, 64)
    if short:
        config = config.override(n_layer=1, n_head=2, n_embd=64, block_size=32)
        config = config.override(compile="off", device="cpu", precision="float32")
        vocabulary, sizes = 128, (2,)
    known = None if short else known_gpu(torch.cuda.get_device_name())
    peak = known.peak_flops if known else matrix_peak(torch.float32, 256 if short else 8192)
    flops = Schema.of(config.model, vocabulary).training_flops(config.model.block_size)
    rows = []
    for size in sizes:
        speed = tokens_per_second(config.override(batch_size=size), vocabulary, 2 if short else 20)
        planned = planned_speed(config, vocabulary, size, known) if known else None
        name = f"124M, {size} blocks of {config.model.block_size:,}"
        rows.append(Row(name, "tokens/s", speed, planned, "hornbook plan"))
        rows.append(
            Row(f"{name}: MFU", "share of peak", speed * flops / peak, ceiling=MFU,
                ceiling_name="goal")
        )  # fmt: skip
    return rows


def known_gpu(name: str) -> GPU | None:
    """The row of the machine table for a GPU as PyTorch names it; it has none for PCIe cards."""
    plain = name.lower().replace(" ", "")
    if "pcie" in plain:
        return None
    return next((gpu for key, gpu in GPUS.items() if key.split("-")[0] in plain), None)


def planned_speed(config: Config, vocabulary: int, size: int, gpu: GPU) -> float:
    """What the plan on paper expects."""
    block_size = config.model.block_size
    run = Run(
        schema=Schema.of(config.model, vocabulary), block_size=block_size, tokens=1e9,
        batch_tokens=size * block_size, gpu=gpu, gpus=1, micro_batch=size, recompute=False,
    )  # fmt: skip
    return estimate(run).tokens_per_second


def tokens_per_second(config: Config, vocabulary: int, runs: int) -> float:
    """Of whole steps: both passes, clipping and the update."""
    chosen = machine.choose(config)
    device = chosen.device.value
    model = GPT(config.model, vocabulary)
    prepare(model, chosen)
    optimizers = Optimizers(model, config.optimizer, chosen.kernels)
    shape = (config.train.batch_size, config.model.block_size)
    idx = torch.randint(vocabulary, shape, device=device)
    seconds = 0.0
    with deterministic(wanted=config.train.deterministic):
        for step in range(runs + 2):
            if step == 2:  # the first two compile and set up
                synchronize(device)
                seconds = -time.perf_counter()
            model.zero_grad(set_to_none=True)
            model.training_loss(Batch(idx, idx)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizers.step(1e-6)
        synchronize(device)
        seconds += time.perf_counter()
    return idx.numel() * runs / seconds


def synchronize(device: str) -> None:
    """Wait for a GPU to finish what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Print the rows, a line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="small models on a CPU")
    parser.add_argument("--steps", type=int, default=1500, help="of the first goal")
    asked = parser.parse_args()
    if not asked.short and not torch.cuda.is_available():
        sys.exit("benchmarks.gpu needs a GPU that PyTorch can use; --short runs on a CPU")
    for row in measure(short=asked.short, n_steps=asked.steps):
        peer = "" if row.peer is None else f"; {row.peer_name} {row.peer:,.4g}"
        goal = "" if row.ceiling is None else f"; {row.ceiling_name} {row.ceiling:g}"
        note = f"; {row.note}" if row.note else ""
        sys.stdout.write(f"{row.what}: {row.ours:,.4g} {row.unit}{peer}{goal}{note}\n")


if __name__ == "__main__":
    main()
