"""The plan on paper: published runs, and what must hold of any plan."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale import GPT2_SMALL, RUNS, Published, mpt_runs, table
from hornbook.config import ModelConfig
from hornbook.errors import ConfigError
from hornbook.models.schema import Schema
from hornbook.scale import GPUS, Run, estimate, fewest_gpus, sized
from hornbook.scale.estimate import (
    ATTENTION_SHARE,
    LINK_SHARE,
    MOVED_A_CHANNEL,
    MOVED_AN_ENTRY,
    PRODUCTS_SHARE,
    UPDATE_BYTES,
    USABLE_SHARE,
    memory,
    most_blocks,
)

DOCS = Path(__file__).parents[2] / "docs"
RUN = Run(
    schema=Schema.of(sized("124m", 50_304), 50_304),
    block_size=1024,
    tokens=10e9,
    batch_tokens=2**19,
    gpu=GPUS["h100"],
    gpus=8,
)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.name} {run.gpus} {run.gpu}")
def test_published_speeds_are_met_within_a_quarter_or_it_is_said_why_not(run: Published) -> None:
    assert (abs(run.off) > 0.25) == bool(run.outside), f"{run.off:+.0%}"


def test_the_constants_fit_what_they_were_fitted_to() -> None:
    found = mpt_runs()
    off = [abs(run.off) for run in found]
    assert len(found) == 146
    assert max(off) < 0.25
    assert sum(off) / len(off) < 0.07
    # No kind of GPU and no number of them is off as a whole.
    for gpu in ("a100-40gb", "a100-80gb", "h100"):
        ratios = [run.off for run in found if run.gpu == gpu]
        assert abs(sum(ratios) / len(ratios)) < 0.10


def test_the_documentation_has_the_comparison() -> None:
    page = (DOCS / "scale.md").read_text(encoding="utf-8")
    for row in table():
        assert row in page
    for run in RUNS:
        assert run.source.split(", ")[0] in page
        assert run.figure in page
    constants = (
        f"run at {PRODUCTS_SHARE:.0%}", f"attention at {ATTENTION_SHARE:.0%}",
        f"{MOVED_A_CHANNEL} numbers", f"{MOVED_AN_ENTRY} for each entry",
        f"reaches {LINK_SHARE:.0%}", f"{UPDATE_BYTES} bytes", f"{USABLE_SHARE:.0%} of the memory",
    )  # fmt: skip
    for constant in constants:
        assert constant in page
    for name, gpu in GPUS.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        cells = [cell.strip() for cell in row.split("|")[2:-1]]
        assert cells == [
            gpu.name, f"{gpu.peak_flops / 1e12:,.0f}", f"{gpu.product_flops / 1e12:,.0f}",
            f"{gpu.memory_bytes / 1e9:.0f}", f"{gpu.memory_bytes_per_second / 1e12:.2f}",
            f"{gpu.link_bytes_per_second / 1e9:.0f}", f"{gpu.network_bytes_per_second / 1e9:.1f}",
            f"{gpu.usd_per_hour:.2f}", gpu.price_source,
        ]  # fmt: skip


def test_what_was_published_as_running_fits() -> None:
    # llm.c's 1.6B shares the optimizer's state over the GPUs, and torchtitan's GPUs have 96 GB.
    for run in RUNS:
        if run.name not in ("llm.c 1.6B", "torchtitan Llama 3.1 8B"):
            assert run.plan.fits, run.name


def test_the_figures_follow_from_each_other() -> None:
    found = estimate(RUN)
    assert found.flops_per_token == RUN.schema.training_flops(1024)
    assert found.step_seconds == pytest.approx(
        found.compute_seconds + found.exposed_seconds + found.optimizer_seconds
    )
    assert found.tokens_per_second * found.step_seconds == pytest.approx(2**19)
    assert found.mfu * 8 * 989e12 == pytest.approx(found.flops_per_token * found.tokens_per_second)
    assert found.hours * 3600 * found.tokens_per_second == pytest.approx(10e9)
    assert found.usd == pytest.approx(found.hours * 8 * GPUS["h100"].usd_per_hour)
    assert found.micro_batch * found.passes >= RUN.blocks_a_gpu
    # Weights, gradients and moments: 4 + 4 + 4 bytes for Muon's, 16 for the others.
    kept = found.memory.weights + found.memory.gradients + found.memory.optimizer
    matrices = RUN.matrix_parameters
    assert kept == 12 * matrices + 16 * (RUN.schema.parameters - matrices)


def test_one_gpu_sends_nothing_and_eight_send_gradients_and_muons_matrices() -> None:
    assert estimate(replace(RUN, gpus=1)).communication_bytes == 0
    sent = (8 * RUN.schema.parameters + 4 * RUN.matrix_parameters) * 7 / 8
    assert estimate(RUN).communication_bytes == pytest.approx(sent)


@settings(max_examples=50)
@given(
    gpus=st.integers(1, 1024),
    gpu=st.sampled_from(sorted(GPUS)),
    size=st.sampled_from(["124m", "350m", "1.3b", "7b"]),
)
def test_a_plan_holds_its_bounds(gpus: int, gpu: str, size: str) -> None:
    model = sized(size, 50_304)
    schema = Schema.of(model, 50_304)
    run = replace(RUN, schema=schema, block_size=model.block_size, gpus=gpus, gpu=GPUS[gpu])
    found = estimate(run)
    usable = USABLE_SHARE * run.gpu.memory_bytes
    assert found.fits == (found.memory.total <= usable)
    assert 0 < found.mfu < run.gpu.product_flops / run.gpu.peak_flops * 1.35
    assert found.memory_with_recompute.activations < found.memory_without_recompute.activations
    # More GPUs share more, and never wait less for each other in the same step.
    if found.parallel == "fsdp":
        more = memory(replace(run, gpus=2 * gpus), "fsdp", found.micro_batch, found.recompute)
        assert more.total <= found.memory.total
    fewest = fewest_gpus(run, "fsdp")
    assert fewest is not None
    assert memory(replace(run, gpus=fewest), "fsdp", 1, recompute=True).total <= usable


@pytest.mark.parametrize("blocks", [1, 7, 64, 500])
def test_as_many_blocks_a_pass_as_fit(blocks: int) -> None:
    gpu = GPUS["rtx4090"]
    run = replace(RUN, gpu=gpu, gpus=1, batch_tokens=blocks * 1024)
    found = most_blocks(run, "ddp", recompute=False)
    fits = [
        micro
        for micro in range(1, blocks + 1)
        if memory(run, "ddp", micro, recompute=False).total <= USABLE_SHARE * gpu.memory_bytes
    ]
    passes = -(-blocks // max(fits))
    assert found == -(-blocks // passes)


def test_a_size_is_a_shape_of_about_that_size() -> None:
    for size, parameters in (("124m", 124e6), ("1.3b", 1.3e9), ("7b", 7e9), ("500m", 5e8)):
        found = sized(size, 50_304)
        assert found.parameter_count(50_304) == pytest.approx(parameters, rel=0.12)
        found.spec.check(found)
    for size in ("10m", "30m", "60m", "1b", "2b", "20b", "400b", "1t"):
        found = sized(size, 1000)
        wanted = float(size[:-1]) * {"m": 1e6, "b": 1e9, "t": 1e12}[size[-1]]
        assert found.parameter_count(1000) == pytest.approx(wanted, rel=0.25)
    for wrong in ("big", "0", "-1b", "1x", "1e9", ""):
        with pytest.raises(ConfigError, match="expected a number"):
            sized(wrong, 1000)
    with pytest.raises(ConfigError, match="no shape of about that size"):
        sized("1m", 50_304)


def test_gpt2_small_has_the_flops_of_its_own_shape() -> None:
    """Two matrices of 4 x 768 x 768 are our three of 2,048 x 768."""
    assert GPT2_SMALL.block_matrix_parameters == 12 * 768**2
    ours = Schema.of(ModelConfig(n_layer=12, n_embd=768, n_head=12, block_size=1024), 50_304)
    assert ours.training_flops(1024) == GPT2_SMALL.training_flops(1024)


def test_the_table_of_measured_runs_is_whole() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "mpt.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["gpu"] for row in rows} == {"a100-40gb", "a100-80gb", "h100"}
    assert {int(row["gpus"]) for row in rows} == {8, 16, 32, 64, 128, 256, 512}
