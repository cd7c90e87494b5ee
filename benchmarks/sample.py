"""How fast hornbook generates, and how soon, compared with nanoGPT.

Both generate with models of the same shape and random weights, which take the time of trained ones:
0.8 and 10.65 million parameters, one text and 64 together. hornbook reads a prompt of half a block
and generates a whole one. The peer reads its whole context again for every token, so it is measured
at the mean context, three quarters of a block.

Then a crowd of 64 texts is compared with one text, texts of different length and settings with
equal ones, and the drawing of tokens with the whole step.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import hornbook as hb
from benchmarks.peers.nanogpt import CPU_RECIPE, GPU_RECIPE, NanoGPT, Recipe
from benchmarks.table import Row, median_seconds
from benchmarks.train import matrix_peak
from hornbook.config import Config, ModelConfig, SamplingConfig
from hornbook.infer.batch import Batch
from hornbook.infer.native_decoder import Floats, NativeDecoder, Precision, Weights
from hornbook.kernels import processor
from hornbook.models.gpt import GPT
from hornbook.models.schema import Schema

RECIPES = {"0.8M": CPU_RECIPE, "10.65M": GPU_RECIPE}
CHARACTERS = "\n !$&',-.3:;?" + "".join(chr(65 + i) + chr(97 + i) for i in range(26))
WIDTHS: dict[Precision, int] = {"float32": 4, "bfloat16": 2, "int8": 1}
# The precision that "auto" takes, and how many times one text's speed a crowd should have.
CROWDS: dict[str, tuple[Precision, float]] = {"0.8M": ("float32", 3.0), "10.65M": ("bfloat16", 5.0)}
VARIED = (
    SamplingConfig(temperature=0.0),
    SamplingConfig(temperature=0.7, top_k=20),
    SamplingConfig(top_p=0.9, frequency_penalty=0.5),
    SamplingConfig(min_p=0.05, repetition_penalty=1.2),
)


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
            for precision, width in WIDTHS.items():
                ceiling = (
                    (reads_a_second(parameters * width), "its weights read from memory")
                    if rows == 1
                    else products_a_second(parameters, precision)
                )
                decoder = decoder_of(shape, weights, precision, rows)
                ours = our_speed(decoder, shape.block_size, runs if rows == 1 else 1)
                what = f"{name}, {texts}, {precision}"
                found.append(Row(what, "tokens/s", ours, peer, "nanoGPT, float32", *ceiling))
        precision, goal = CROWDS[name]
        decoders = (
            decoder_of(shape, weights, precision, 1),
            decoder_of(shape, weights, precision, 8 if short else 64),
        )
        found += crowd_rows(f"{name}, {precision}", decoders, shape.block_size, goal, runs)
        soon = first_character_seconds(shape, runs)
        found.append(Row(f"{name}: hornbook sample, to the first character", "s", soon))
    return found


def decoder_of(
    shape: ModelConfig, weights: Weights, precision: Precision, rows: int
) -> NativeDecoder:
    """A decoder of random weights."""
    schema, size = Schema.of(shape, len(CHARACTERS)), shape.context_size
    return NativeDecoder(schema, weights, context_size=size, precision=precision, rows=rows)


def crowd_rows(
    name: str, decoders: tuple[NativeDecoder, NativeDecoder], block: int, goal: float, runs: int
) -> list[Row]:
    """What a crowd gains, and what differences between its texts cost; the best of all runs."""
    one, many = decoders
    rows, half = many.rows, block // 2
    lengths = [1 + number * (block - 1) // (rows - 1) for number in range(rows)]
    plain = [SamplingConfig()] * rows
    varied = [VARIED[number % len(VARIED)] for number in range(rows)]
    kinds = {
        "one": (one, [half], plain[:1]),
        "equal": (many, [half] * rows, plain),
        "lengths": (many, lengths, plain),
        "settings": (many, lengths, varied),
    }
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(runs):
        for kind, asked in kinds.items():
            found[kind].append(steps_timed(*asked, steps=half))
    step, drawing = (
        {kind: min(each[i] for each in times) for kind, times in found.items()} for i in (0, 1)
    )
    texts = f"{name}, {rows} texts"
    equal = {"ceiling": rows / step["equal"], "ceiling_name": "equal texts"}
    tenth = {"ceiling": 0.1, "ceiling_name": "goal"}
    return [
        Row(f"{texts} against one", "times", rows * step["one"] / step["equal"],
            ceiling=goal, ceiling_name="goal"),
        Row(f"{texts} of different length", "tokens/s", rows / step["lengths"], **equal),
        Row(f"{texts} of different length and settings", "tokens/s", rows / step["settings"],
            **equal),
        Row(f"{texts}: drawing", "share of a step", drawing["equal"] / step["equal"], **tenth),
        Row(f"{texts} of different settings: drawing", "share of a step",
            drawing["settings"] / step["settings"], **tenth),
    ]  # fmt: skip


class Timed:
    """A decoder, and the seconds that it computes."""

    def __init__(self, decoder: NativeDecoder) -> None:
        self._decoder = decoder
        self.context_size = decoder.context_size
        self.vocab_size = decoder.vocab_size
        self.rows = decoder.rows
        self.copy = decoder.copy
        self.seconds = 0.0

    def forward(
        self, tokens: Sequence[Sequence[int]], rows: Sequence[int], starts: Sequence[int]
    ) -> Floats:
        """See `Decoder`."""
        started = time.perf_counter()
        logits_RV = self._decoder.forward(tokens, rows, starts)
        self.seconds += time.perf_counter() - started
        return logits_RV


def steps_timed(
    decoder: NativeDecoder, lengths: Sequence[int], samplings: Sequence[SamplingConfig], steps: int
) -> tuple[float, float]:
    """The least seconds of a step after prompts of these lengths, and of what is not C in it."""
    timed = Timed(decoder)
    batch = Batch(timed)
    for seed, (length, sampling) in enumerate(zip(lengths, samplings, strict=True)):
        # Each its own, so that none is copied.
        batch.add([seed % len(CHARACTERS)] + [0] * (length - 1), sampling, seed)
    while len(batch.step()) < len(lengths):
        pass
    whole, rest = [], []
    for _ in range(steps):
        timed.seconds, started = 0.0, time.perf_counter()
        batch.step()
        whole.append(time.perf_counter() - started)
        rest.append(whole[-1] - timed.seconds)
    return min(whole), min(rest)


def reads_a_second(size: int) -> float:
    """How often so many bytes can be read."""
    numbers = torch.ones(size // 4)
    return 1 / median_seconds(numbers.sum, runs=20)


def products_a_second(parameters: int, precision: Precision) -> tuple[float, str]:
    """How many tokens' products PyTorch's matrix product has time for, and in which numbers."""
    halved = precision == "bfloat16" and processor.multiplies_bfloat16()
    dtype, name = (torch.bfloat16, "bfloat16") if halved else (torch.float32, "float32")
    return matrix_peak(dtype, 1024) / (2 * parameters), f"{name} products"


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
