"""The plan on paper (`hornbook plan`) against published runs: tokens a second of all GPUs.

No figure here is fitted to a run of `RUNS`; the formula's constants come from those of mpt.csv
(mosaicml/llm-foundry, scripts/train/benchmarking/README.md, July 2025: all runs in bfloat16 with
blocks of up to 4,096 tokens). Nothing is measured: it takes milliseconds.
"""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.table import Row
from hornbook.config import ModelConfig
from hornbook.models.schema import Schema
from hornbook.scale import GPUS, Estimate, Run, estimate


@dataclass(frozen=True)
class Published:
    """A run that others measured. `blocks_a_pass` is a GPU's."""

    name: str
    gpu: str
    gpus: int
    schema: Schema
    block_size: int
    batch_tokens: float
    blocks_a_pass: int
    tokens_per_second: float
    figure: str  # as it was published
    source: str
    parallel: str = "ddp"
    recompute: bool = False
    muon: bool = False
    outside: str = ""  # why the formula is not expected to meet it

    @property
    def plan(self) -> Estimate:
        """What the formula says of it."""
        return estimate(
            Run(
                schema=self.schema,
                block_size=self.block_size,
                tokens=1e9,
                batch_tokens=self.batch_tokens,
                gpu=GPUS[self.gpu],
                gpus=self.gpus,
                parallel="fsdp" if self.parallel == "fsdp" else "ddp",
                micro_batch=self.blocks_a_pass,
                recompute=self.recompute,
                muon=self.muon,
            )
        )

    @property
    def off(self) -> float:
        """How far the plan's speed is from the published one: 0.1 is 10% faster."""
        return self.plan.tokens_per_second / self.tokens_per_second - 1


def shape(
    n_layer: int, n_embd: int, n_head: int, vocab_size: int = 50_304, block_size: int = 1024
) -> Schema:
    """GPT-2's kind: an MLP of two matrices, 4 times as wide, has the products of our three."""
    model = ModelConfig(
        n_layer=n_layer, n_embd=n_embd, n_head=n_head, block_size=block_size, tie_embeddings=True
    )
    return replace(Schema.of(model, vocab_size), query_key_norm=False)


def llama(schema: Schema, mlp_width: int, n_kv_head: int) -> Schema:
    """Llama's kind, with tables of their own."""
    return replace(schema, mlp_width=mlp_width, n_kv_head=n_kv_head, tied=False)


GITHUB = "https://github.com"
GPT2_SMALL = shape(12, 768, 12)
LLAMA_7B = llama(shape(32, 4096, 32, 32_000, 4096), 11_008, 32)
RUNS = [
    Published(
        "nanoGPT 124M", "a100-40gb", 8, GPT2_SMALL, 1024, 491_520, 12,
        600_000 * 491_520 / (4 * 86_400), "600,000 steps of 491,520 tokens in about 4 days",
        f"{GITHUB}/karpathy/nanoGPT, README.md and config/train_gpt2.py",
        outside="January 2023, before flash attention (commit ae06d0b1)",
    ),
    Published(
        "llm.c 124M", "a100-80gb", 8, GPT2_SMALL, 1024, 524_288, 64,
        524_288 / 0.300, "steps of 524,288 tokens in about 300 ms",
        f"{GITHUB}/karpathy/llm.c, scripts/run_gpt2_124M.sh",
    ),
    Published(
        "llm.c 350M", "a100-80gb", 8, shape(24, 1024, 16), 1024, 524_288, 64,
        524_288 / 0.820, "steps of 524,288 tokens in about 820 ms",
        f"{GITHUB}/karpathy/llm.c, scripts/run_gpt2_350M.sh",
    ),
    Published(
        "llm.c 124M, run by modded-nanogpt", "h100", 8, GPT2_SMALL, 1024, 524_288, 64,
        524_288 / 0.140, "a mean step of 140 ms",
        f"{GITHUB}/KellerJordan/modded-nanogpt, records/track_1_short/2024-10-13_llmc",
    ),
    Published(
        "llm.c 1.6B", "h100", 8, shape(48, 1600, 25), 1024, 1_048_576, 16,
        1_048_576 / 2.80, "steps of 1,048,576 tokens in 2.80 s",
        f"{GITHUB}/karpathy/llm.c, scripts/run_gpt2_1558M.sh",
    ),
    Published(
        "modded-nanogpt 124M, Muon", "h100", 8, GPT2_SMALL, 1024, 524_288, 64,
        524_288 / 0.21633, "step_avg 216.33 ms",
        f"{GITHUB}/KellerJordan/modded-nanogpt, records/track_1_short/2024-10-10_Muon",
        muon=True,
    ),
    Published(
        "modded-nanogpt 1.5B, Muon", "h100", 8, shape(52, 1536, 12), 1024, 480 * 1024, 12,
        480 * 1024 / 1.71917, "step_avg 1719.17 ms, 480 blocks of 1,024",
        f"{GITHUB}/KellerJordan/modded-nanogpt, records/track_1_short/2024-10-20_ScaleUp1B",
        muon=True,
    ),
    Published(
        # Three of four layers see 1,024 tokens back and the fourth all 2,048: 1,280 in the mean.
        "nanochat d24, bfloat16", "h100", 8,
        replace(shape(24, 1536, 12, 32_768, 2048), window=1280, tied=False), 2048, 524_288, 16,
        16_704 * 524_288 / 10_949.47, "16,704 steps of 524,288 tokens in 10,949 s",
        f"{GITHUB}/karpathy/nanochat, dev/LEADERBOARD.md, run 1",
        muon=True,
    ),
    Published(
        "TinyLlama 1.1B", "a100-40gb", 16, llama(shape(22, 2048, 32, 32_000, 2048), 5632, 4), 2048,
        2_097_152, 8, 16 * 24_000, "24,000 tokens/s a GPU",
        f"{GITHUB}/jzhang38/TinyLlama, README.md", "fsdp",
    ),
    Published(
        "fms-fsdp Llama 7B", "a100-80gb", 128, LLAMA_7B, 4096, 128 * 2 * 4096, 2,
        128 * 4550, "4,550 tokens/s a GPU",
        f"{GITHUB}/foundation-model-stack/fms-fsdp, README.md", "fsdp",
    ),
    Published(
        "fms-fsdp Llama 7B", "h100", 96, LLAMA_7B, 4096, 96 * 2 * 4096, 2,
        96 * 9600, "9,600 tokens/s a GPU",
        f"{GITHUB}/foundation-model-stack/fms-fsdp, README.md", "fsdp",
    ),
    Published(
        "torchtitan Llama 3.1 8B", "h100", 128,
        llama(shape(32, 4096, 32, 128_256, 8192), 14_336, 8), 8192, 128 * 2 * 8192, 2,
        128 * 6514, "6,514 tokens/s a GPU, compiled, without float8",
        f"{GITHUB}/pytorch/torchtitan, benchmarks/llama3_h100_202412_torchtitan.md", "fsdp",
        outside="H100s limited to 500 W, with slower memory, and a part of the activations is "
        "computed again",
    ),
]  # fmt: skip


# MPT's layers, width and heads (scripts/train/yamls/pretrain).
MPT = {
    "125m": (12, 768, 12), "350m": (24, 1024, 16), "760m": (24, 1536, 12), "1b": (24, 2048, 16),
    "3b": (32, 2560, 20), "7b": (32, 4096, 32), "13b": (40, 5120, 40), "30b": (48, 7168, 56),
    "70b": (80, 8192, 64),
}  # fmt: skip


def mpt_runs() -> list[Published]:
    """The runs that the formula's constants were fitted to."""
    with (Path(__file__).parent / "mpt.csv").open(encoding="utf-8", newline="") as file:
        return [of_row(row) for row in csv.DictReader(file)]


def of_row(row: dict[str, str]) -> Published:
    """One row of mpt.csv."""
    gpus, block_size = int(row["gpus"]), int(row["block_size"])
    blocks = int(row["blocks_a_pass"])
    return Published(
        f"MPT {row['model']}",
        row["gpu"],
        gpus,
        shape(*MPT[row["model"]], 50_368, block_size),
        block_size,
        gpus * blocks * int(row["passes"]) * block_size,
        blocks,
        gpus * float(row["tokens_per_second_a_gpu"]),
        f"{row['tokens_per_second_a_gpu']} tokens/s a GPU",
        f"{GITHUB}/mosaicml/llm-foundry, scripts/train/benchmarking/README.md",
        "fsdp",
        recompute=row["recompute"] == "true",
    )


def measure(*, short: bool = False) -> list[Row]:  # noqa: ARG001 (it is short already)
    """The plan's tokens a second beside the published ones."""
    return [
        Row(
            f"{run.name}, {run.gpus} x {GPUS[run.gpu].name}",
            "tokens/s",
            run.plan.tokens_per_second,
            run.tokens_per_second,
            "published",
            note=run.outside,
        )
        for run in RUNS
    ]


def table() -> list[str]:
    """The comparison as rows of Markdown, as docs/scale.md has it."""
    return [
        f"| {run.name} | {run.gpus} x {GPUS[run.gpu].name} | {run.tokens_per_second:,.0f} | "
        f"{run.plan.tokens_per_second:,.0f} | {100 * run.off:+.0f}% | {100 * run.plan.mfu:.0f}% |"
        for run in RUNS
    ]
