"""Memory, communication, speed, time and cost of a run on GPUs, by one formula.

Its constants were fitted once, to 146 measured runs of MPT models from 125 million to 70 billion
parameters on 8 to 512 A100 and H100 GPUs (mosaicml/llm-foundry,
scripts/train/benchmarking/README.md, blocks of up to 4,096 tokens, bfloat16; `python -m
benchmarks.scale_fit`). The time that it gives for them is between 19% too short and 16% too long,
and 6% off in the mean. `docs/scale.md` compares the formula with other published runs.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from hornbook.models.schema import CHUNK_LOGITS, LARGE_VOCABULARY, Schema, is_matrix
from hornbook.scale.gpus import GPU

Parallel = Literal["ddp", "fsdp"]

# Of what large products reach, a model's products and its attention reach so much. Half of the
# attention that `Schema.training_flops` counts is masked, and fused kernels leave it out.
PRODUCTS_SHARE, ATTENTION_SHARE = 0.99, 0.34
# Numbers of two bytes that go through memory for a token: for each channel of a layer, and for each
# entry of the vocabulary.
MOVED_A_CHANNEL, MOVED_AN_ENTRY = 258, 5.5
# What collectives reach of a link, and the part of FSDP's that the computation does not hide.
LINK_SHARE, FSDP_EXPOSED = 0.8, 0.75
# Of bytes that an update reads and writes for a parameter: weight, gradient and two moments.
UPDATE_BYTES = 28
# Muon's iterations, each of three products.
MUON_ITERATIONS = 5
# Numbers of two bytes that a compiled block keeps of a token for the backward pass: of each
# channel, and of each channel of the MLP (docs/experiments.md). Not compiled it keeps 1.8 times as
# much.
KEPT_A_CHANNEL, KEPT_AN_MLP_CHANNEL = 10, 3
# CUDA, NCCL and compiled code; and the part of a GPU's memory that can be filled.
FIXED_BYTES, USABLE_SHARE = 2e9, 0.92


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is trained, on what. `parallel` and `micro_batch` (blocks a pass) may be chosen."""

    schema: Schema
    block_size: int
    tokens: float
    batch_tokens: float
    gpu: GPU
    gpus: int
    parallel: Parallel | None = None
    micro_batch: int | None = None
    recompute: bool | None = None
    muon: bool = True

    @property
    def blocks_a_gpu(self) -> int:
        """Blocks that the busiest GPU reads in a step."""
        return max(1, math.ceil(self.batch_tokens / self.block_size / self.gpus))

    @property
    def matrix_parameters(self) -> int:
        """Parameters that Muon updates."""
        return self.schema.n_layer * self.schema.block_matrix_parameters if self.muon else 0


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one GPU."""

    weights: float
    gradients: float
    optimizer: float
    working: float  # bfloat16 copies, what is gathered, the buffer of gradients, logits
    activations: float
    fixed: float = FIXED_BYTES

    @property
    def total(self) -> float:
        """All of it."""
        return sum(asdict(self).values())


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run takes, and how it would be set."""

    parallel: Parallel
    recompute: bool
    micro_batch: int  # blocks that a GPU reads in one pass
    passes: int  # in a step
    memory: Memory
    memory_with_recompute: Memory
    memory_without_recompute: Memory
    fits: bool
    flops_per_token: int
    communication_bytes: float  # that a GPU sends in a step
    communication_seconds: float
    exposed_seconds: float  # of them, those that are not hidden behind computation
    compute_seconds: float
    optimizer_seconds: float
    step_seconds: float
    tokens_per_second: float
    mfu: float
    steps: int
    hours: float
    usd: float

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        found = asdict(self)
        for name in ("memory", "memory_with_recompute", "memory_without_recompute"):
            found[name]["total"] = getattr(self, name).total
        return found


def estimate(run: Run) -> Estimate:
    """The run as it would be set, or, where nothing fits, the one that lacks least."""
    found = list(settings(run))
    return next((each for each in found if each.fits), found[-1])


def settings(run: Run) -> Iterator[Estimate]:
    """Ways to set a run, the best first: all weights on each GPU, then shares; then recomputation.

    Of each the most blocks a pass that fit are tried, and one block where none do.
    """
    ways: list[Parallel] = [run.parallel] if run.parallel else ["ddp", "fsdp"]
    if run.gpus == 1:
        ways = ["ddp"]
    recomputing = [False, True] if run.recompute is None else [run.recompute]
    for parallel in ways:
        for recompute in recomputing:
            yield estimated(run, parallel, most_blocks(run, parallel, recompute), recompute)


def most_blocks(run: Run, parallel: Parallel, recompute: bool) -> int:
    """The most blocks a pass that fit, in as equal passes as there are; 1 where none do."""
    if run.micro_batch:
        return min(run.micro_batch, run.blocks_a_gpu)
    usable = USABLE_SHARE * run.gpu.memory_bytes
    low, high = 1, run.blocks_a_gpu
    while low < high:
        middle = (low + high + 1) // 2
        fits = memory(run, parallel, middle, recompute).total <= usable
        low, high = (middle, high) if fits else (low, middle - 1)
    return math.ceil(run.blocks_a_gpu / math.ceil(run.blocks_a_gpu / low))


def memory(run: Run, parallel: Parallel, micro: int, recompute: bool) -> Memory:
    """What one GPU holds at the peak of a step."""
    schema, tokens = run.schema, micro * run.block_size
    total, matrices = schema.parameters, run.matrix_parameters
    products = schema.n_layer * schema.block_matrix_parameters + schema.vocab_size * schema.n_embd
    share = run.gpus if parallel == "fsdp" else 1
    if parallel == "fsdp":  # two gathered units in bfloat16, the gradients of one in float32
        unit = max(schema.block_parameters, schema.vocab_size * schema.n_embd)
        working = 2 * 2 * unit + 4 * unit
    else:  # the products' weights in bfloat16, and with other ranks the buffer they exchange
        working = 2 * products + (4 * total if run.gpus > 1 else 0)
    entries = schema.vocab_size
    logits = 4 * 4 * (CHUNK_LOGITS if entries >= LARGE_VOCABULARY else entries * tokens)
    block = 2 * (KEPT_A_CHANNEL * schema.n_embd + KEPT_AN_MLP_CHANNEL * schema.mlp_width)
    # What enters each block, and the inside of one.
    kept = 2 * schema.n_layer * schema.n_embd + block if recompute else schema.n_layer * block
    return Memory(
        weights=4 * total / share,
        gradients=4 * total / share,
        optimizer=(4 * matrices + 8 * (total - matrices)) / share,
        working=working + logits,
        activations=float(tokens * kept),
    )


def token_seconds(schema: Schema, block_size: int, gpu: GPU, *, recompute: bool = False) -> float:
    """How long one GPU takes for the passes over one token, in large batches."""
    blocks = 6 * schema.n_layer * schema.block_matrix_parameters
    products = blocks + 6 * schema.vocab_size * schema.n_embd
    attended = (schema.training_flops(block_size) - products) / 2
    moved = 2 * MOVED_A_CHANNEL * schema.n_layer * schema.n_embd
    if recompute:  # one pass forward more through the blocks, of what were three
        products += blocks // 3
        attended, moved = attended * 4 / 3, moved * 4 / 3
    moved += 2 * MOVED_AN_ENTRY * schema.vocab_size
    computing = products / PRODUCTS_SHARE + attended / ATTENTION_SHARE
    return computing / gpu.product_flops + moved / gpu.memory_bytes_per_second


def sent_bytes(run: Run, parallel: Parallel, passes: int) -> float:
    """What a GPU sends in a step."""
    others = (run.gpus - 1) / run.gpus
    total = run.schema.parameters
    # Each rank sends the matrices that it has updated.
    updated = 4 * run.matrix_parameters * others
    if parallel == "ddp":  # a sum of float32 gradients: their shares, then the sums
        return 2 * 4 * total * others + updated
    # In each pass weights are gathered in bfloat16, forward and backward; gradients are float32.
    return passes * (2 * 2 + 4) * total * others + updated


def muon_flops(schema: Schema) -> float:
    """Orthogonalising all matrices: x x^T, its square, and their product with x, each time."""
    total = 0
    for name, shape in schema.block().items():
        if is_matrix(f"blocks.0.{name}", shape):
            short, long = sorted(shape)
            total += 4 * short**2 * long + 2 * short**3
    return float(MUON_ITERATIONS * schema.n_layer * total)


def estimated(run: Run, parallel: Parallel, micro: int, recompute: bool) -> Estimate:
    """What a run takes that is set so."""
    schema, gpu = run.schema, run.gpu
    passes = math.ceil(run.blocks_a_gpu / micro)
    a_token = token_seconds(schema, run.block_size, gpu, recompute=recompute)
    computing = run.blocks_a_gpu * run.block_size * a_token
    sent = sent_bytes(run, parallel, passes)
    inside = run.gpus <= gpu.per_machine
    link = gpu.link_bytes_per_second if inside else gpu.network_bytes_per_second
    communicating = sent / (LINK_SHARE * link)
    exposed = communicating
    if parallel == "fsdp":
        exposed = max(FSDP_EXPOSED * communicating, communicating - computing)
    share = run.gpus if parallel == "fsdp" else 1
    updating = UPDATE_BYTES * schema.parameters / share / gpu.memory_bytes_per_second
    if run.muon:
        updating += muon_flops(schema) / run.gpus / (PRODUCTS_SHARE * gpu.product_flops)
    step = computing + exposed + updating
    speed = run.batch_tokens / step
    flops = schema.training_flops(run.block_size)
    found, without, with_ = (
        memory(run, parallel, micro, each) for each in (recompute, False, True)
    )
    hours = run.tokens / speed / 3600
    return Estimate(
        parallel=parallel,
        recompute=recompute,
        micro_batch=micro,
        passes=passes,
        memory=found,
        memory_with_recompute=with_,
        memory_without_recompute=without,
        fits=found.total <= USABLE_SHARE * gpu.memory_bytes,
        flops_per_token=flops,
        communication_bytes=sent,
        communication_seconds=communicating,
        exposed_seconds=exposed,
        compute_seconds=computing,
        optimizer_seconds=updating,
        step_seconds=step,
        tokens_per_second=speed,
        mfu=flops * speed / (run.gpus * gpu.peak_flops),
        steps=math.ceil(run.tokens / run.batch_tokens),
        hours=hours,
        usd=hours * run.gpus * gpu.usd_per_hour,
    )


def fewest_gpus(run: Run, parallel: Parallel, most: int = 65_536) -> int | None:
    """How many GPUs hold the run, with recomputation and one block a pass; None for none."""
    number = 1
    while number <= most:
        tried = replace(run, gpus=number)
        total = memory(tried, parallel, 1, recompute=True).total
        if total <= USABLE_SHARE * run.gpu.memory_bytes:
            return number
        if parallel == "ddp":  # more GPUs hold no less each
            return None
        number += 1 if number < 8 else 8 if number < 512 else 64
    return None
