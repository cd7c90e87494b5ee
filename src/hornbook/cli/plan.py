"""`hornbook plan`."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Literal

from cyclopts import Parameter

from hornbook.cli.console import output
from hornbook.cli.terminal import Whole, print_json, print_table
from hornbook.config import Config, ModelConfig, locate, one_of, parse_all, parse_assignments
from hornbook.errors import ConfigError
from hornbook.models.schema import Schema
from hornbook.scale import GPU, GPUS, Estimate, Run, estimate, fewest_gpus, sized
from hornbook.scale.estimate import (
    ATTENTION_SHARE,
    FSDP_EXPOSED,
    LINK_SHARE,
    MOVED_A_CHANNEL,
    MOVED_AN_ENTRY,
    PRODUCTS_SHARE,
    UPDATE_BYTES,
)
from hornbook.scale.sizes import amount, described, usual_batch

# GPT-2's 50,257 tokens, in a multiple of 128.
VOCABULARY = 50_304
# Compute-optimal: Hoffmann et al. 2022, arXiv:2203.15556.
TOKENS_A_PARAMETER = 20
NUMBERS = (1, 8, 64, 1024)
# More ranks than any job has had; it keeps arithmetic on paper away from absurdities.
MOST_GPUS, LARGEST_VOCABULARY = 1_000_000, 10_000_000
# Beside those of the model, the settings that change a plan.
BATCH = {"batch_size", "gradient_accumulation"}
READ = BATCH | {"recompute", "optimizer"}


def run(
    *,
    gpus: Whole | None = None,
    gpu: str = "h100",
    model: str | None = None,
    tokens: str | None = None,
    batch_tokens: str | None = None,
    vocabulary: Whole = VOCABULARY,
    parallel: Literal["auto", "ddp", "fsdp"] = "auto",
    usd_per_hour: float | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    json: bool = False,
) -> None:
    """Estimate a run on GPUs that are not here: memory, communication, speed, time and cost.

    Nothing is run, and no text is read. The formula is printed, and docs/scale.md compares it with
    published runs. For a run on this machine: hornbook train TEXT --dry-run.

    Args:
        gpus: How many GPUs. Without it, 1, 8, 64 and 1,024 are compared.
        gpu: Which: a100-40gb, a100-80gb, h100, h200, b200, rtx4090 or rtx5090.
        model: Its number of parameters, such as 124m, 1.3b or 7b. A shape like GPT-3's is chosen
            for it; --set changes it, or gives one without a size.
        tokens: How many tokens are read, such as 26b. The default is 20 for each parameter.
        batch_tokens: Tokens a step: 512k. The default is GPT-3's for the size, and at least one
            block a GPU; --set batch_size gives it in blocks.
        vocabulary: How many tokens the tokenizer has.
        parallel: ddp keeps all weights on each GPU, fsdp a share of them. By default ddp where it
            fits.
        usd_per_hour: The price of one GPU, instead of the table's.
        set_: A setting as key=value: any of the model, or batch_size, gradient_accumulation,
            recompute, optimizer. May be given several times.
        json: Print one JSON object.
    """
    chosen = priced(gpu.lower(), usd_per_hour)
    if gpus is not None and not 1 <= gpus <= MOST_GPUS:
        raise ConfigError(f"--gpus {gpus}: expected from 1 to {MOST_GPUS:,}")
    if not 2 <= vocabulary <= LARGEST_VOCABULARY:
        raise ConfigError(f"--vocabulary {vocabulary}: expected from 2 to {LARGEST_VOCABULARY:,}")
    assignments = parse_all(parse_assignments(set_ or []))
    named = {check_read(name) for name in assignments}
    if model is None and not assignments:
        raise ConfigError("--model is missing: how many parameters, as in --model 124m")
    config = Config(model=sized(model, vocabulary) if model else ModelConfig())
    config = config.override(**assignments)
    if config.model.model != "gpt":
        raise ConfigError(f"a plan on paper is of a gpt, but model = {config.model.model!r}")
    schema = Schema.of(config.model, vocabulary)
    size = schema.parameters
    read = amount(tokens, "--tokens") if tokens else float(TOKENS_A_PARAMETER * size)
    given = batch_of(config, batch_tokens, named)

    def of(number: int) -> Run:
        """The run on so many GPUs, each with at least one block of a batch nobody has set."""
        block_size = config.model.block_size
        return Run(
            schema=schema,
            block_size=block_size,
            tokens=read,
            batch_tokens=given or max(usual_batch(size), number * block_size),
            gpu=chosen,
            gpus=number,
            parallel=None if parallel == "auto" else parallel,
            recompute=config.train.recompute if "recompute" in named else None,
            muon=config.optimizer.optimizer == "muon",
        )

    if gpus is None:
        compare([of(number) for number in NUMBERS], json=json)
        return
    wanted = of(gpus)
    found = estimate(wanted)
    if json:
        print_json(as_dict(wanted, found))
        return
    for name, line in lines(wanted, found):
        output().print(f"{name:<14} {line}", markup=False, highlight=False)


def priced(name: str, usd_per_hour: float | None) -> GPU:
    """The GPU of that name, at another price where one is given. Raises: ConfigError."""
    if name not in GPUS:
        raise ConfigError(f"--gpu {name}: {one_of(name, list(GPUS))}")
    if usd_per_hour is None:
        return GPUS[name]
    if not 0 <= usd_per_hour <= 1e6:
        raise ConfigError(f"--usd-per-hour {usd_per_hour:g}: expected a price in dollars")
    return replace(GPUS[name], usd_per_hour=usd_per_hour, price_source="--usd-per-hour")


def batch_of(config: Config, batch_tokens: str | None, named: set[str]) -> float | None:
    """Tokens a step, where they are given. Raises: ConfigError where they are given twice."""
    if batch_tokens and named & BATCH:
        raise ConfigError("--batch-tokens and --set batch_size both give the batch: leave one out")
    if batch_tokens:
        return amount(batch_tokens, "--batch-tokens")
    return float(config.tokens_per_step) if named & BATCH else None


def check_read(name: str) -> str:
    """A setting's name without its section. Raises: ConfigError for one that no plan reads."""
    section, key = locate(name)
    if section != "model" and key not in READ:
        raise ConfigError(
            f"--set {key}: a plan for GPUs reads the model's settings and {', '.join(sorted(READ))}"
        )
    return key


def as_dict(run: Run, found: Estimate) -> dict[str, object]:
    """A plan's figures, what they were made from, and how many GPUs hold the run."""
    fewest = {each: fewest_gpus(run, each) for each in ("ddp", "fsdp")}
    return {
        "run": asdict(run),
        "parameters": run.schema.parameters,
        **found.as_dict(),
        "fewest_gpus": fewest,
        "formula": dict(formula()),
    }


def lines(run: Run, found: Estimate) -> list[tuple[str, str]]:
    """A plan in words: a name and a line each."""
    gpu, memory = run.gpu, found.memory
    machines = -(-run.gpus // gpu.per_machine)
    where = f"{machines:,} machines of {gpu.per_machine}" if machines > 1 else "one machine"
    plain, again = found.memory_without_recompute, found.memory_with_recompute
    size = f"{gpu.memory_bytes / 1e9:.0f} GB"
    holds = f"of {size}" if found.fits else f"DOES NOT FIT into {size}"
    link = gpu.link_bytes_per_second if machines == 1 else gpu.network_bytes_per_second
    through = "between the GPUs" if machines == 1 else "the network of a machine"
    sent = (
        "none"
        if run.gpus == 1
        else (
            f"{found.communication_bytes / 1e9:,.2f} GB a step from each GPU, "
            f"{found.communication_seconds:.3f} s at {LINK_SHARE:.0%} of {link / 1e9:,.0f} GB/s "
            f"({through}); {found.exposed_seconds:.3f} s of it are waited for"
        )
    )
    fewest = fewest_gpus(run, "fsdp")
    alone = "1 by ddp" if fewest_gpus(run, "ddp") else "no number by ddp, which shares no weights"
    enough = "no number by fsdp" if fewest is None else f"{fewest:,} by fsdp"
    passes = "1 pass" if found.passes == 1 else f"{found.passes} passes"
    recomputing = "with recomputation" if found.recompute else "without recomputation"
    return [
        ("GPUs", f"{run.gpus:,} x {gpu.name}, {where}"),
        ("model", described(run.schema, run.block_size)),
        (
            "batch",
            f"{run.batch_tokens:,.0f} tokens: {run.blocks_a_gpu:,} blocks a GPU in {passes} of "
            f"{found.micro_batch}; {found.steps:,} steps for {run.tokens:,.0f} tokens",
        ),
        ("parallel", f"{found.parallel}, {recomputing}"),
        (
            "memory a GPU",
            f"{memory.total / 1e9:.1f} GB {holds}: weights {memory.weights / 1e9:.2f}, gradients "
            f"{memory.gradients / 1e9:.2f}, optimizer {memory.optimizer / 1e9:.2f}, activations "
            f"{memory.activations / 1e9:.1f} ({plain.activations / 1e9:.1f} without recomputation, "
            f"{again.activations / 1e9:.1f} with it), working {memory.working / 1e9:.2f}, fixed "
            f"{memory.fixed / 1e9:.0f}",
        ),
        ("GPUs needed", f"{enough}, {alone} (one block a pass, with recomputation)"),
        ("communication", sent),
        (
            "step",
            f"{found.step_seconds:.3f} s: passes {found.compute_seconds:.3f}, communication "
            f"{found.exposed_seconds:.3f}, update {found.optimizer_seconds:.3f}",
        ),
        ("speed", f"{found.tokens_per_second:,.0f} tokens/s, {found.mfu:.0%} MFU"),
        ("time", f"{duration(found.hours)} of steps, without evaluations and interruptions"),
        (
            "cost",
            f"{found.usd:,.0f} USD at {gpu.usd_per_hour:.2f} USD a GPU and hour "
            f"({gpu.price_source})",
        ),
        *((f"{'formula' if not i else ''}", f"{name} = {how}") for i, (name, how) in
          enumerate(formula())),
        ("", "never run on a GPU by hornbook; docs/scale.md compares it with published runs"),
    ]  # fmt: skip


def formula() -> list[tuple[str, str]]:
    """How the figures follow from each other."""
    return [
        (
            "flops a token",
            "6 x parameters in products + 12 x layers x width x tokens attended to",
        ),
        (
            "passes",
            f"tokens a GPU x ((products / {PRODUCTS_SHARE} + attention / 2 / {ATTENTION_SHARE}) / "
            f"achievable flops + 2 x ({MOVED_A_CHANNEL} x layers x width + {MOVED_AN_ENTRY} x "
            "vocabulary) / memory bandwidth)",
        ),
        (
            "communication",
            "ddp: (8 x parameters + 4 x Muon's) x (1 - 1/GPUs) bytes, waited for; fsdp: (8 x "
            f"passes x parameters + 4 x Muon's) x (1 - 1/GPUs), {FSDP_EXPOSED:.0%} waited for, or "
            "what exceeds the passes",
        ),
        (
            "update",
            f"{UPDATE_BYTES} x parameters a GPU / memory bandwidth + Muon's products / GPUs",
        ),
        ("MFU", "flops a token x tokens/s / (GPUs x bfloat16 peak)"),
    ]


def compare(runs: Sequence[Run], *, json: bool) -> None:
    """One run on several numbers of GPUs."""
    found = [(run, estimate(run)) for run in runs]
    if json:
        print_json({"plans": [as_dict(*each) for each in found]})
        return
    first = runs[0]
    console = output()
    shape = described(first.schema, first.block_size)
    console.print(f"{first.gpu.name}: {shape}; {first.tokens:,.0f} tokens", highlight=False)
    headings = ("GPUs", "parallel", "GB a GPU", "batch", "s a step", "tokens/s", "MFU", "time",
                "USD")  # fmt: skip
    rows = [
        (
            f"{run.gpus:,}",
            f"{each.parallel}{', recompute' * each.recompute}",
            f"{each.memory.total / 1e9:.1f}" if each.fits else "does not fit",
            f"{run.batch_tokens:,.0f}",
            f"{each.step_seconds:.3f}" if each.fits else "",
            f"{each.tokens_per_second:,.0f}" if each.fits else "",
            f"{each.mfu:.0%}" if each.fits else "",
            duration(each.hours) if each.fits else "",
            f"{each.usd:,.0f}" if each.fits else "",
        )
        for run, each in found
    ]
    numbers = tuple(name for name in headings if name != "parallel")
    print_table(console, headings, rows, numbers=numbers, unbroken=("parallel",), drop=(3, 4))


def duration(hours: float) -> str:
    """Hours in the unit that reads best."""
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
