"""Whether a run fits into memory: an estimate of its peak, and what is available."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from hornbook import cores
from hornbook.config import Config, ModelConfig
from hornbook.errors import ConfigError
from hornbook.eval.dynamic import MOST_KEPT
from hornbook.eval.loss import EVAL_BATCH_LOGITS, EVAL_BATCH_TOKENS
from hornbook.kernels.runtime import LARGE_PARAMETERS
from hornbook.language import msg
from hornbook.models.mixer import LINE_BYTES, table_bits
from hornbook.models.ngram import N_PARTS
from hornbook.models.schema import CHUNK_LOGITS, LARGE_VOCABULARY, Schema
from hornbook.ngram.counting import checked_tokens, count_ngrams
from hornbook.ngram.tuning import MAX_ORDER as LONGEST
from hornbook.parallel import Job
from hornbook.storage.tensors import PIECE_BYTES
from hornbook.text.arrays import Tokens
from hornbook.text.dataset import Dataset

MIB = 2**20
# What Python, torch and its kernels take in the first step of even the smallest model: 93 MB.
FIXED_BYTES = 93_000_000
# And what a model from elsewhere takes beside that, with its tokenizer and the libraries that read
# it: SmolLM2-135M with 8 blocks of 256 tokens took 3,001 MB in a step, on one thread.
FOREIGN_BYTES = 300_000_000

# Counting sorts the positions of a text, and holds the n-grams it has found twice over.
BYTES_A_TOKEN, BYTES_A_GRAM, BYTES_A_KEPT_GRAM = 24, 60, 20
# PPMd and brotli, which measure the text while a mixer reads its end.
COMPRESSING_BYTES = 2 * 134_000_000
# A sample of so many tokens tells how many n-grams the whole has, in 0.05 s.
SAMPLED, STRETCHES = 200_000, 10


@dataclass(frozen=True)
class Countable:
    """A text to count n-grams on: its tokens, and about how many n-grams it has of each order."""

    tokens: int
    n_grams: tuple[float, ...]  # shortest first

    @classmethod
    def of(cls, model: ModelConfig, dataset: Dataset) -> Self | None:
        """The text that a model's n-grams are counted on; None for a model without."""
        if not model.reads_counts:
            return None
        order, vocab_size = model.order or LONGEST, dataset.tokenizer.vocab_size
        return cls.sample(counted_part(model, dataset), vocab_size, order)

    @classmethod
    def sample(cls, tokens: Tokens, vocab_size: int, order: int) -> Self:
        """Count stretches of a text, and half of each, and extrapolate the growth.

        For seven texts (0.4 to 18 million characters and BPE tokens, orders 6 and 10) the estimate
        was between 10% below and 23% above the exact number.
        """
        most = max(1, min(len(tokens), SAMPLED) // STRETCHES)
        starts = np.linspace(0, len(tokens) - most, STRETCHES).astype(int)
        half, whole = (
            np.concatenate([tokens[start : start + length] for start in starts])
            for length in (most // 2, most)
        )
        if len(half) < order:  # too short to take memory, or to be counted
            return cls(len(tokens), ())
        few, many = (
            count_ngrams(checked_tokens(part, vocab_size), vocab_size, order)
            for part in (half, whole)
        )
        growth = len(tokens) / len(whole)
        pairs = [(len(less.keys), len(more.keys)) for less, more in zip(few, many, strict=True)]
        return cls(len(tokens), tuple(n * growth ** np.log2(n / less) for less, n in pairs))

    def bytes(self, model: ModelConfig) -> tuple[int, int]:
        """The peak of counting, and what is held of it while the model is used."""
        found = sum(self.n_grams[: model.order or LONGEST])
        # Beside a network each part of the text is counted without the others and kept.
        crossed = N_PARTS * found if model.with_counts else 0.0
        peak = BYTES_A_TOKEN * self.tokens + BYTES_A_GRAM * found + BYTES_A_KEPT_GRAM * crossed
        return int(peak), int(BYTES_A_KEPT_GRAM * (found + crossed))


def counted_part(model: ModelConfig, dataset: Dataset) -> Tokens:
    """The training text, as far as n-grams are counted on it."""
    tokens = learned_part(model, dataset)
    return tokens[-model.counted_tokens :] if model.with_counts else tokens


def learned_part(model: ModelConfig, dataset: Dataset) -> Tokens:
    """The training text without its end, where that is held out for a mixer."""
    return dataset.train[: len(dataset.train) - model.held_out(len(dataset.train))]


def activation_bytes(config: Config, vocab_size: int) -> float:
    """Bytes that one position of a batch takes in training, for both passes.

    By PyTorch in float32: the factors of the specs are fitted to measured peaks, see `peak_bytes`.
    C kernels keep what kernels/block.c says, in the run's precision.
    """
    model, wide = config.model, config.model.n_embd
    if config.train.compile == "c":
        number = 2 if config.train.precision == "bfloat16" else 4
        schema = Schema.of(model, vocab_size)
        heads = 2 * (schema.n_head + schema.n_kv_head) * schema.head_width
        inside = number * (heads + wide + 2 * schema.mlp_width)
        enters = number * wide + (2 * wide if model.dropout else 0)
        blocks = model.n_layer * enters + inside * (1 if config.train.recompute else model.n_layer)
        logits = vocab_size if vocab_size < LARGE_VOCABULARY else 0
        return blocks + number * 8 * wide + 16 * (wide + logits)
    inside = model.spec.activations(model) * (1.2 if model.dropout else 1.0)
    if config.train.recompute:  # what enters each block, and the inside of one
        inside = inside / model.n_layer + model.n_layer * wide
    return 4 * (inside + (4 * vocab_size if vocab_size < LARGE_VOCABULARY else 4 * wide))


def lora_parameters(model: ModelConfig, vocab_size: int) -> int:
    """The parameters of LoRA's factors beside every matrix of the blocks."""
    shapes = Schema.of(model, vocab_size).block().values()
    sides = sum(sum(shape) for shape in shapes if len(shape) == 2)
    return (model.lora_rank or 0) * model.n_layer * sides


@dataclass(frozen=True)
class Sharing:
    """How many processes train a run, and how many of them on this machine."""

    ranks: int = 1
    here: int = 1

    @classmethod
    def of(cls, ranks: int, device: str) -> Self:
        """So many ranks, which share a machine's memory, or each of which has a GPU of its own."""
        if ranks == 1:
            return cls()
        return cls(ranks, Job.of_environment().local_world if device == "cpu" else 1)


def peak_bytes(
    config: Config,
    vocab_size: int,
    countable: Countable | None = None,
    sharing: Sharing = Sharing(),
) -> int:
    """About the most memory a run takes on a CPU: in counting, a step, saving, or evaluating.

    Several processes on the machine take it together. What they share was not measured.

    Against the measured peaks of 17 runs in float32, not compiled (bigram to gpt, 4 thousand to 20
    million parameters, 0.1 to 1.7 GB; torch 2.13, one thread) it is between 13% below and 20%
    above. bfloat16 took a seventh less than float32. With `countable`,
    for 12 runs that count (0.4 to 18 million tokens, alone and beside a network, orders 6 and 10,
    0.2 to 1.4 GB) it was between 15% below and 30% above.
    Raises: ValueError for settings that are not resolved: a precision has a size, "auto" has none.
    """
    model, train, spec = config.model, config.train, config.model.spec
    if "auto" in (train.precision, train.compile):
        raise ValueError("only resolved settings have a size: precision or compile is auto")
    count = trained = model.parameter_count(vocab_size)
    if model.lora_rank is not None:
        trained = lora_parameters(model, vocab_size)
        count += trained
    fixed = FIXED_BYTES + (FOREIGN_BYTES if model.pretrained is not None else 0)
    # Weights, gradients, and the optimizer's one or two numbers for each.
    muon = config.optimizer.optimizer == "muon" and spec.c_kernels
    kept = whole = 4 * count + (8 if muon else 12) * trained
    blocks = -(-train.batch_size // sharing.ranks)
    starting = gathered = 0
    spread = sharing.ranks if train.parallel == "fsdp" else 1
    if spread > 1:
        # All weights at first and at last, and what is outside the blocks, and two of these, with
        # gradients, in between.
        kept = whole // spread
        layer = count // max(2, model.n_layer + 1)
        starting, gathered = 4 * count + kept, 8 * 3 * layer
        whole = max(kept, 4 * count)
    activations = blocks * model.block_size * activation_bytes(config, vocab_size)
    step = kept + gathered + activations
    if train.compile == "c" and train.gradient_accumulation == 1:
        # A layer's gradients come when its activations go.
        step -= min(4 * trained, activations)
    # Muon works on all matrices of one shape at once, after the gradients are there.
    moving = 0
    if muon and train.compile != "c":
        moving = 12 * count // spread + 15 * count // sharing.ranks
    if train.compile == "c":  # a layer's gradients for each thread, and what they work in
        layer = Schema.of(model, vocab_size).block_matrix_parameters
        step += 8 * layer * (train.threads or cores.usable().count)
    copy = saved_bytes(config, vocab_size, sharing) if train.async_save == "on" else 0
    if vocab_size >= LARGE_VOCABULARY:
        # Logits in both precisions; the table's gradient, which is there before the backward pass,
        # and a copy of the table in the activations' precision.
        step += 6 * CHUNK_LOGITS + 6 * vocab_size * model.n_embd
    # Weights and optimizer, and a piece of them on the way to the disk.
    saving = kept + min(kept, 2 * PIECE_BYTES)
    evaluating = whole + evaluation_bytes(config, vocab_size)
    if count > LARGE_PARAMETERS:  # whose gradients are gone by then, and their memory given back
        evaluating -= 4 * trained
    counting, counts = countable.bytes(model) if countable and model.reads_counts else (0, 0)
    mixing = tables = 0
    if countable and model.with_mixer:
        # From counting on; and what is beside its end, or their bytes on the way to the disk.
        tables = table_bytes(min(countable.tokens, model.counted_tokens))
        mixing = whole + max(2 * tables, COMPRESSING_BYTES)
        evaluating += 4 * MOST_KEPT
    peak = max(starting, step, moving, saving, evaluating, mixing)
    # One process counts, and all map its tables. One saves, unless all have a part.
    copies = copy * (sharing.here if spread > 1 else 1)
    most = int(max(counting, counts + sharing.here * peak + copies))
    return sharing.here * fixed + tables + most


def evaluation_bytes(config: Config, vocab_size: int) -> int:
    """What an evaluation takes beside the weights and the optimizer's state."""
    model, spec = config.model, config.model.spec
    rows = max(min(EVAL_BATCH_TOKENS, EVAL_BATCH_LOGITS // vocab_size), model.context_size)
    inside = 0 if spec.counted else 4 * model.n_embd + 2 * model.block_size
    if model.context_size > model.block_size:
        # Through windows: scores of two blocks' width, before the softmax and after it, and half as
        # much again.
        inside += 6 * model.n_head * model.block_size
    if model.context_length is not None:  # scores of every pair of positions
        inside += 3 * model.n_head * model.context_size
    # N-grams are read as distributions, several at a time.
    logits = min(rows, CHUNK_LOGITS // vocab_size + 1) if vocab_size >= LARGE_VOCABULARY else rows
    return 4 * rows * inside + 4 * logits * (9 if model.reads_counts else 3) * vocab_size


def saved_bytes(config: Config, vocab_size: int, sharing: Sharing = Sharing()) -> int:
    """What one process writes for a checkpoint: weights and the optimizer's state."""
    model = config.model
    count = trained = model.parameter_count(vocab_size)
    if model.lora_rank is not None:
        trained = lora_parameters(model, vocab_size)
        count += trained
    muon = config.optimizer.optimizer == "muon" and model.spec.c_kernels
    spread = sharing.ranks if config.train.parallel == "fsdp" else 1
    return (4 * count + (4 if muon else 8) * trained) // spread


def table_bytes(n_tokens: int) -> int:
    """The size of a mixer's tables for so many tokens; `hornbook_mixer_lines` is exact."""
    line_bits, counter_bits = table_bits(n_tokens)
    return (LINE_BYTES << line_bits) + 5 * (4 << counter_bits) + (1 << 22)


def available_bytes(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Memory available now, to this container too; None where the system does not report it."""
    found = [meminfo(proc / "meminfo")]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max" where there is no limit
            most, now = (int((cgroups / name).read_text()) for name in (limit, used))
            found.append(max(0, most - now))
    return min((amount for amount in found if amount is not None), default=None)


def meminfo(path: Path) -> int | None:
    """What Linux reports as available; elsewhere the machine's memory in all."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return None
    figures = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((int(figure) * 1024 for figure in figures), None)


def check(
    config: Config,
    vocab_size: int,
    available: int | None,
    countable: Countable | None = None,
    sharing: Sharing = Sharing(),
) -> None:
    """Check that a run on a CPU will fit, before it starts; `config` is resolved.

    Raises: ConfigError with the estimate, what is available, and the size that would fit.
    """
    if available is None:
        return
    needed = peak_bytes(config, vocab_size, countable, sharing)
    if needed <= available:
        return

    def fits(**values: int) -> bool:
        return peak_bytes(config.override(**values), vocab_size, countable, sharing) <= available

    model = config.model
    batch = largest(config.train.batch_size, 1, lambda size: fits(batch_size=size))
    order = largest(model.order or LONGEST, 1, lambda size: fits(order=size)) if countable else 0
    if order:
        advice = msg("order = {order} would fit", order=order)
    elif model.spec.counted:
        advice = msg("not even order = 1 would fit; take less text")
    elif batch:
        advice = msg(
            "batch_size = {batch} would fit, with gradient_accumulation for the rest", batch=batch
        )
    elif model.with_counts and fits(with_counts=False):
        advice = msg("without n-grams it would fit")
    else:
        unit = 2 * model.n_head
        width = largest(model.n_embd, unit, lambda size: fits(n_embd=size, batch_size=1))
        tip = msg("take fewer layers or a smaller block")
        if width:
            tip = msg("with it n_embd = {width} would", width=width)
        advice = msg("not even batch_size = 1 would fit; {tip}", tip=tip)
    raise ConfigError(
        msg(
            "the run would need about {needed:,.0f} MiB of memory, and {available:,.0f} "
            "MiB are available: {advice}",
            needed=needed / MIB,
            available=available / MIB,
            advice=advice,
        )
    )


def largest(most: int, unit: int, fits: Callable[[int], bool]) -> int:
    """The largest multiple of `unit` up to `most` that fits; 0 when none does."""
    low, high = 0, most // unit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * unit) else (low, middle - 1)
    return low * unit
