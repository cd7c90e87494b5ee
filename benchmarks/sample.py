"""How fast hornbook writes, and how soon: against nanoGPT's way of writing, in the same run.

    python benchmarks/sample.py                # a table
    python benchmarks/sample.py --json

Both write from models of the same shape with random weights, which costs what trained ones cost:
0.8 and 10.65 million parameters, one text and 64 side by side. hornbook reads half a block and
writes a whole one, so that letting go of a full block's older half is in the figure. The peer's
work for a token grows with its context, and is measured at the mean one, three quarters of a block.
Then the time from starting `hornbook sample` to its first character, compiled decoder in the cache.
Medians of --runs. Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook import checkpoint
from hornbook.config import Config, ModelConfig
from hornbook.generate import Rows
from hornbook.machine import processor_name
from hornbook.models import GPT
from hornbook.native import Decoder
from hornbook.run import RunFolder
from hornbook.tokenizer import CharTokenizer

SHAPES = {
    "0.8M": ModelConfig(n_layer=4, n_head=4, n_embd=128, block_size=64),
    "10.65M": ModelConfig(n_layer=6, n_head=6, n_embd=384, block_size=256),
}
CHARACTERS = "\n !$&',-.3:;?" + "".join(chr(65 + i) + chr(97 + i) for i in range(26))
ROWS = 64


class PeerBlock(nn.Module):
    """LayerNorm, attention, LayerNorm, an MLP four times as wide with GELU; no biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(y.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.ln_2(x))))


class Peer(nn.Module):
    """nanoGPT's model and way of writing, from its published settings.

    Learned positions, tied tables, float32, no key-value cache: the whole context is read again
    for every token, the logits taken at its end alone, and a token drawn by torch.multinomial.
    Source: github.com/karpathy/nanoGPT, model.py, sample.py and config/train_shakespeare_char.py.
    """

    def __init__(self, shape: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, shape.n_embd)
        self.places = nn.Embedding(shape.block_size, shape.n_embd)
        blocks = (PeerBlock(shape.n_embd, shape.n_head) for _ in range(shape.n_layer))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(shape.n_embd, bias=False)

    def forward(self, idx: Tensor) -> Tensor:
        x = self.tokens(idx) + self.places.weight[: idx.size(1)]
        return self.norm(self.blocks(x))[:, [-1]] @ self.tokens.weight.T

    @torch.no_grad()
    def write_one(self, idx: Tensor) -> Tensor:
        """One more token a row."""
        probabilities = F.softmax(self(idx)[:, -1] / 0.8, dim=-1)
        return torch.cat((idx, torch.multinomial(probabilities, num_samples=1)), dim=1)


def seconds(work: Callable[[], object], runs: int) -> float:
    """The median time of doing something, after once to warm up."""
    took = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return statistics.median(took[1:])


def peer_tokens_per_second(shape: ModelConfig, rows: int, runs: int) -> float:
    """Of the peer, at three quarters of a block."""
    peer = Peer(shape, len(CHARACTERS)).eval()
    idx = torch.zeros(rows, shape.block_size * 3 // 4, dtype=torch.long)
    return rows / seconds(lambda: peer.write_one(idx), runs)


def our_tokens_per_second(decoder: Decoder, runs: int) -> float:
    """Of a decoder with all its rows, drawing included."""
    block_size = decoder.block_size
    prompt = [0] * (block_size // 2)

    def write() -> None:
        rows = Rows(decoder, prompt, seeds=range(decoder.rows))
        for _ in range(block_size):
            rows.advance()

    return decoder.rows * block_size / seconds(write, runs)


def measure_writing(runs: int) -> Iterator[dict[str, object]]:
    """A row for each shape, number of texts and precision."""
    for name, shape in SHAPES.items():
        weights = {key: t.numpy() for key, t in GPT(shape, len(CHARACTERS)).state_dict().items()}
        for rows in (1, ROWS):
            peer = peer_tokens_per_second(shape, rows, runs)
            for precision in ("float32", "bfloat16", "int8"):
                decoder = Decoder(shape, weights, precision=precision, rows=rows)
                ours = our_tokens_per_second(decoder, runs)
                yield {
                    "parameters": name,
                    "texts": rows,
                    "weights": precision,
                    "threads": decoder.threads,
                    "tokens_per_second": round(ours, 1),
                    "peer_tokens_per_second": round(peer, 1),
                    "ratio": round(ours / peer, 1),
                }


def measure_start(shape: ModelConfig, runs: int) -> float:
    """Seconds from starting the command to its first character."""
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place))
        config = Config(model=shape)
        folder.config.write_text(config.to_toml(), encoding="utf-8")
        CharTokenizer(CHARACTERS).save(folder.tokenizer)
        model = GPT(shape, len(CHARACTERS))
        saved = checkpoint.Checkpoint(1, {"model": model.state_dict()}, {})
        checkpoint.save(folder.checkpoints, "best", saved)
        command = [sys.executable, "-m", "hornbook", "sample", place, "--max-new-tokens", "1"]

        def first_character() -> None:
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                if not process.stdout.read(1):
                    raise SystemExit(f"{' '.join(command)} wrote nothing")

        return seconds(first_character, runs)


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="how often to measure each figure")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    arguments = parser.parse_args()
    machine = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
    }
    writing = list(measure_writing(arguments.runs))
    start = {name: round(measure_start(shape, arguments.runs), 2) for name, shape in SHAPES.items()}
    if arguments.json:
        found = {"machine": machine, "writing": writing, "first_character_seconds": start}
        sys.stdout.write(json.dumps(found) + "\n")
        return
    sys.stdout.write(", ".join(f"{key} {value}" for key, value in machine.items()) + "\n\n")
    header = [key.replace("_", " ") for key in writing[0]]
    sys.stdout.write(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}\n")
    for row in writing:
        sys.stdout.write(f"| {' | '.join(map(str, row.values()))} |\n")
    sys.stdout.write("\n")
    for name, took in start.items():
        sys.stdout.write(f"{name}: {took} s from `hornbook sample` to the first character\n")


if __name__ == "__main__":
    main()
