"""nanoGPT's model and training, rebuilt from its published settings in plain PyTorch.

Source of every setting: https://github.com/karpathy/nanoGPT, README.md (the CPU recipe for
shakespeare_char), config/train_shakespeare_char.py (the GPU recipe) and the defaults of train.py
and model.py: GPT-2's block with layer norm before each half, learned positions, tied tables, GELU,
no biases; weights from N(0, 0.02), those that end a residual branch divided by sqrt(2 n_layer);
AdamW with decay on matrices alone; linear warm-up, then a cosine to a tenth.
Its published ends on tiny Shakespeare: 1.88 (CPU recipe) and 1.4697 (GPU recipe).

    python benchmarks/peers/nanogpt.py TEXT            # the CPU recipe, about two minutes
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """A model's shape and how it is trained."""

    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    block_size: int = 64
    batch_size: int = 12
    steps: int = 2000
    dropout: float = 0.0
    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-4
    warmup_steps: int = 100
    beta2: float = 0.99
    weight_decay: float = 0.1
    gradient_clip: float = 1.0


CPU_RECIPE = Recipe()
GPU_RECIPE = Recipe(
    n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=64, steps=5000, dropout=0.2
)


class Block(nn.Module):
    """GPT-2's block."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        width = recipe.n_embd
        self.n_head, self.dropout = recipe.n_head, recipe.dropout
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.drop = nn.Dropout(recipe.dropout)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        heads = (rows, length, self.n_head, width // self.n_head)
        parts = self.qkv(self.attention_norm(x)).split(width, dim=2)
        q, k, v = (part.view(heads).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        mixed = mixed.transpose(1, 2).reshape(rows, length, width)
        x = x + self.drop(self.attention_out(mixed))
        return x + self.drop(self.down(F.gelu(self.up(self.mlp_norm(x)))))


class NanoGPT(nn.Module):
    """The whole model: logits of every position."""

    def __init__(self, recipe: Recipe, vocab_size: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.tokens = nn.Embedding(vocab_size, recipe.n_embd)
        self.positions = nn.Embedding(recipe.block_size, recipe.n_embd)
        self.drop = nn.Dropout(recipe.dropout)
        self.blocks = nn.ModuleList(Block(recipe) for _ in range(recipe.n_layer))
        self.norm = nn.LayerNorm(recipe.n_embd, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                ends = name.endswith(("attention_out.weight", "down.weight"))
                scale = math.sqrt(2 * recipe.n_layer) if ends else 1.0
                nn.init.normal_(weight, std=0.02 / scale)

    def forward(self, idx: Tensor, *, last: bool = False) -> Tensor:
        """Logits of every position, or of the last alone, which is all that writing asks for."""
        x = self.drop(self.tokens(idx) + self.positions.weight[: idx.size(1)])
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x[:, -1:] if last else x), self.tokens.weight)

    @torch.no_grad()
    def write(self, idx: Tensor) -> Tensor:
        """One more token a row, the whole context read anew for it: nanoGPT's generate."""
        logits = self(idx[:, -self.recipe.block_size :], last=True)[:, -1] / 0.8
        return torch.cat((idx, torch.multinomial(logits.softmax(-1), 1)), dim=1)


def optimizer_of(model: NanoGPT) -> torch.optim.AdamW:
    """AdamW as nanoGPT sets it up: decay for what is two-dimensional."""
    recipe = model.recipe
    weights = list(model.parameters())
    return torch.optim.AdamW(
        [
            {"params": [w for w in weights if w.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, recipe.beta2),
    )


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then half a cosine down to the least."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / (recipe.warmup_steps + 1)
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    share = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return recipe.min_learning_rate + share * (recipe.learning_rate - recipe.min_learning_rate)


def train(
    model: NanoGPT, data: Tensor, *, dtype: torch.dtype | None = None
) -> Iterator[tuple[int, float]]:
    """Train to the recipe's end, yielding each step and its loss; `dtype` turns autocast on."""
    recipe, optimizer = model.recipe, optimizer_of(model)
    device = data.device.type
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        starts = torch.randint(len(data) - recipe.block_size, (recipe.batch_size,))
        windows = torch.stack([data[start : start + recipe.block_size + 1] for start in starts])
        with torch.autocast(device, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            logits = model(windows[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        optimizer.step()
        yield step + 1, loss.item()


@torch.no_grad()
def exact_loss(model: NanoGPT, data: Tensor) -> float:
    """Nats per token over every position, in non-overlapping blocks, as ours is measured."""
    model.eval()
    block, total = model.recipe.block_size, 0.0
    whole = (len(data) - 1) // block
    inputs, targets = data[: whole * block].view(-1, block), data[1 : whole * block + 1]
    pairs = list(zip(inputs.split(64), targets.view(-1, block).split(64), strict=True))
    pairs += [(data[whole * block : -1][None], data[whole * block + 1 :][None])]
    for idx, following in pairs:
        if idx.numel():
            logits = model(idx).flatten(0, 1)
            total += F.cross_entropy(logits, following.flatten(), reduction="sum").item()
    model.train()
    return total / (len(data) - 1)


def characters(path: Path) -> tuple[Tensor, Tensor, int]:
    """A text as character numbers: training part, validation part, size of the alphabet."""
    text = path.read_text(encoding="utf-8")
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    alphabet, tokens = np.unique(codes, return_inverse=True)
    data = torch.from_numpy(tokens.astype(np.int64))
    cut = int(0.9 * len(data))
    return data[:cut], data[cut:], len(alphabet)


def fitted(recipe: Recipe, text: tuple[Tensor, Tensor, int], seconds: float) -> Recipe:
    """The recipe with as many steps as fit into the seconds, and its schedule with them."""
    model = NanoGPT(recipe, text[2])
    times, before = [], time.perf_counter()
    for step, _ in train(model, text[0]):
        now = time.perf_counter()
        times.append(now - before)
        before = now
        if step == 20:
            break
    steps = max(10, int(seconds / sorted(times)[len(times) // 2]))
    return replace(recipe, steps=steps, warmup_steps=min(recipe.warmup_steps, steps // 10))


def main() -> None:
    """Train by the CPU recipe, or as much of it as fits into --seconds, and print the loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--seconds", type=float, help="fit the schedule into so many seconds")
    parser.add_argument("--seed", type=int, default=1337)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    started = time.perf_counter()
    text = characters(options.text)
    recipe = CPU_RECIPE
    if options.seconds is not None:
        recipe = fitted(recipe, text, options.seconds - (time.perf_counter() - started))
    model = NanoGPT(recipe, text[2])
    for _ in train(model, text[0]):
        pass
    seconds = time.perf_counter() - started
    sys.stdout.write(
        f"{recipe.steps} steps, {seconds:.1f} s, exact {exact_loss(model, text[1]):.4f}\n"
    )


if __name__ == "__main__":
    main()
