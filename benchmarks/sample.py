"""How fast hornbook generates, and how soon, compared with nanoGPT.

Both generate with models of the same shape and random weights, which take the time of trained ones:
0.8 and 10.65 million parameters, one text and 64 together. hornbook reads a prompt of half a block
and generates a whole one. The peer reads its whole context again for every token, so it is measured
at the mean context, three quarters of a block.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import hornbook as hb
from benchmarks.peers.nanogpt import CPU_RECIPE, GPU_RECIPE, NanoGPT, Recipe
from benchmarks.table import Row, median_seconds
from benchmarks.train import matrix_peak
from hornbook.config import Config, ModelConfig
from hornbook.infer.batch import Batch
from hornbook.infer.native_decoder import NativeDecoder
from hornbook.models.gpt import GPT
from hornbook.models.schema import Schema

RECIPES = {"0.8M": CPU_RECIPE, "10.65M": GPU_RECIPE}
CHARACTERS = "\n !$&',-.3:;?" + "".join(chr(65 + i) + chr(97 + i) for i in range(26))


def measure(*, short: bool = False) -> list[Row]:
    """Tokens a second by shape, precision and number of texts; seconds to the first character."""
    runs = 1 if short else 5
    found = []
    for name, recipe in list(RECIPES.items())[: 1 if short else 2]:
        shape = shape_of(recipe)
        weights = {key: t.numpy() for key, t in GPT(shape, len(CHARACTERS)).state_dict().items()}
        for rows in (1, 2 if short else 64):
            peer = peer_speed(recipe, rows, runs)
            texts = "one text" if rows == 1 else f"{rows} texts"
            parameters = sum(array.size for array in weights.values())
            for precision, width in (("float32", 4), ("bfloat16", 2), ("int8", 1)):
                ceiling = (
                    (reads_a_second(parameters * width), "its weights read from memory")
                    if rows == 1
                    else (matrix_peak(torch.float32, 1024) / (2 * parameters), "float32 products")
                )
                decoder = NativeDecoder(
                    Schema.of(shape, len(CHARACTERS)),
                    weights,
                    context_size=shape.context_size,
                    precision=precision,
                    rows=rows,
                )
                ours = our_speed(decoder, shape.block_size, runs if rows == 1 else 1)
                what = f"{name}, {texts}, {precision}"
                found.append(Row(what, "tokens/s", ours, peer, "nanoGPT, float32", *ceiling))
        soon = first_character_seconds(shape, runs)
        found.append(Row(f"{name}: hornbook sample, to the first character", "s", soon))
    return found


def reads_a_second(size: int) -> float:
    """How often so many bytes can be read."""
    numbers = torch.ones(size // 4)
    return 1 / median_seconds(numbers.sum, runs=20)


def shape_of(recipe: Recipe) -> ModelConfig:
    """hornbook's model of a peer's shape."""
    return ModelConfig(
        n_layer=recipe.n_layer,
        n_head=recipe.n_head,
        n_embd=recipe.n_embd,
        block_size=recipe.block_size,
    )


def peer_speed(recipe: Recipe, rows: int, runs: int) -> float:
    """Tokens a second of the peer, at three quarters of a block."""
    peer = NanoGPT(recipe, len(CHARACTERS)).eval()
    idx = torch.zeros(rows, recipe.block_size * 3 // 4, dtype=torch.long)
    return rows / median_seconds(lambda: peer.write(idx), runs)


def our_speed(decoder: NativeDecoder, block_size: int, runs: int) -> float:
    """Tokens a second of a decoder with all its rows, sampling included."""
    prompt = [0] * (block_size // 2)

    def generate() -> None:
        batch = Batch(decoder)
        for seed in range(decoder.rows):
            batch.add(prompt, seed=seed)
        for _ in range(block_size):
            batch.step()

    return decoder.rows * block_size / median_seconds(generate, runs)


def trained_run(shape: ModelConfig, place: Path) -> Path:
    """A run of this shape that was trained for a step."""
    run, text = place / "run", place / "text.txt"
    text.write_text(CHARACTERS * 100, encoding="utf-8")
    asked = {"corpus": str(text), "steps": 1, "batch_size": 1, "compile": "off"}
    list(hb.train(Config(model=shape).override(**asked, sample_tokens=0), out=run))
    return run


def first_character_seconds(shape: ModelConfig, runs: int) -> float:
    """From the command to its first character, with the compiled decoder in the cache."""
    with tempfile.TemporaryDirectory() as place:
        run = str(trained_run(shape, Path(place)))
        command = [sys.executable, "-m", "hornbook", "sample", run, "--max-new-tokens", "1"]

        def first_character() -> None:
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                if process.stdout is None or not process.stdout.read(1):
                    raise SystemExit(f"{' '.join(command)} wrote nothing")

        return median_seconds(first_character, runs)
