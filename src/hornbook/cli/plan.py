"""`hornbook plan`."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Literal

from cyclopts import Parameter

from hornbook.cli.console import output, padded
from hornbook.cli.terminal import Whole, print_json, print_table
from hornbook.config import Config, ModelConfig, locate, one_of, parse_all, parse_assignments
from hornbook.errors import ConfigError
from hornbook.language import msg, tr, translated
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
        raise ConfigError(
            msg("--gpus {gpus}: expected from 1 to {most_gpus:,}", gpus=gpus, most_gpus=MOST_GPUS)
        )
    if not 2 <= vocabulary <= LARGEST_VOCABULARY:
        raise ConfigError(
            msg(
                "--vocabulary {vocabulary}: expected from 2 to {largest_vocabulary:,}",
                vocabulary=vocabulary,
                largest_vocabulary=LARGEST_VOCABULARY,
            )
        )
    assignments = parse_all(parse_assignments(set_ or []))
    named = {check_read(name) for name in assignments}
    if model is None and not assignments:
        raise ConfigError(msg("--model is missing: how many parameters, as in --model 124m"))
    config = Config(model=sized(model, vocabulary) if model else ModelConfig())
    config = config.override(**assignments)
    if config.model.model != "gpt":
        raise ConfigError(
            msg("a plan on paper is of a gpt, but model = {model!r}", model=config.model.model)
        )
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
        output().print(f"{padded(name, 14)} {line}", markup=False, highlight=False)


def priced(name: str, usd_per_hour: float | None) -> GPU:
    """The GPU of that name, at another price where one is given. Raises: ConfigError."""
    if name not in GPUS:
        raise ConfigError(msg("--gpu {name}: {one_of}", name=name, one_of=one_of(name, list(GPUS))))
    if usd_per_hour is None:
        return GPUS[name]
    if not 0 <= usd_per_hour <= 1e6:
        raise ConfigError(
            msg(
                "--usd-per-hour {usd_per_hour:g}: expected a price in dollars",
                usd_per_hour=usd_per_hour,
            )
        )
    return replace(GPUS[name], usd_per_hour=usd_per_hour, price_source="--usd-per-hour")


def batch_of(config: Config, batch_tokens: str | None, named: set[str]) -> float | None:
    """Tokens a step, where they are given. Raises: ConfigError where they are given twice."""
    if batch_tokens and named & BATCH:
        raise ConfigError(
            msg("--batch-tokens and --set batch_size both give the batch: leave one out")
        )
    if batch_tokens:
        return amount(batch_tokens, "--batch-tokens")
    return float(config.tokens_per_step) if named & BATCH else None


def check_read(name: str) -> str:
    """A setting's name without its section. Raises: ConfigError for one that no plan reads."""
    section, key = locate(name)
    if section != "model" and key not in READ:
        raise ConfigError(
            msg(
                "--set {key}: a plan for GPUs reads the model's settings and {known}",
                key=key,
                known=", ".join(sorted(READ)),
            )
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
    where = tr("one machine")
    link, through = gpu.link_bytes_per_second, msg("between the GPUs")
    if machines > 1:
        where = tr("{machines:,} machines of {gpus}", machines=machines, gpus=gpu.per_machine)
        link, through = gpu.network_bytes_per_second, msg("the network of a machine")
    plain, again = found.memory_without_recompute, found.memory_with_recompute
    size = gpu.memory_bytes / 1e9
    holds = msg("of {size:.0f} GB", size=size)
    if not found.fits:
        holds = msg("DOES NOT FIT into {size:.0f} GB", size=size)
    sent = tr("none")
    if run.gpus > 1:
        sent = tr(
            "{sent:,.2f} GB a step from each GPU, {seconds:.3f} s at {share:.0%} of {link:,.0f} "
            "GB/s ({through}); {exposed:.3f} s of it are waited for",
            sent=found.communication_bytes / 1e9,
            seconds=found.communication_seconds,
            share=LINK_SHARE,
            link=link / 1e9,
            through=through,
            exposed=found.exposed_seconds,
        )
    fewest = fewest_gpus(run, "fsdp")
    alone = msg("no number by ddp, which shares no weights")
    if fewest_gpus(run, "ddp"):
        alone = msg("1 by ddp")
    enough = msg("no number by fsdp")
    if fewest is not None:
        enough = msg("{gpus:,} by fsdp", gpus=fewest)
    passes = msg("1 pass")
    if found.passes > 1:
        passes = msg("{passes} passes", passes=found.passes)
    recomputing = tr("with recomputation") if found.recompute else tr("without recomputation")
    return [
        (tr("GPUs"), f"{run.gpus:,} x {gpu.name}, {where}"),
        (tr("model"), translated(described(run.schema, run.block_size))),
        (
            tr("batch"),
            tr(
                "{batch:,.0f} tokens: {blocks:,} blocks a GPU in {passes} of {micro}; {steps:,} "
                "steps for {tokens:,.0f} tokens",
                batch=run.batch_tokens,
                blocks=run.blocks_a_gpu,
                passes=passes,
                micro=found.micro_batch,
                steps=found.steps,
                tokens=run.tokens,
            ),
        ),
        (tr("parallel"), f"{found.parallel}, {recomputing}"),
        (
            tr("memory a GPU"),
            tr(
                "{total:.1f} GB {holds}: weights {weights:.2f}, gradients {gradients:.2f}, "
                "optimizer {optimizer:.2f}, activations {activations:.1f} ({plain:.1f} without "
                "recomputation, {again:.1f} with it), working {working:.2f}, fixed {fixed:.0f}",
                total=memory.total / 1e9,
                holds=holds,
                weights=memory.weights / 1e9,
                gradients=memory.gradients / 1e9,
                optimizer=memory.optimizer / 1e9,
                activations=memory.activations / 1e9,
                plain=plain.activations / 1e9,
                again=again.activations / 1e9,
                working=memory.working / 1e9,
                fixed=memory.fixed / 1e9,
            ),
        ),
        (
            tr("GPUs needed"),
            tr(
                "{enough}, {alone} (one block a pass, with recomputation)",
                enough=enough,
                alone=alone,
            ),
        ),
        (tr("communication"), sent),
        (
            tr("step"),
            tr(
                "{step:.3f} s: passes {passes:.3f}, communication {exposed:.3f}, update "
                "{update:.3f}",
                step=found.step_seconds,
                passes=found.compute_seconds,
                exposed=found.exposed_seconds,
                update=found.optimizer_seconds,
            ),
        ),
        (
            tr("speed"),
            tr(
                "{speed:,.0f} tokens/s, {mfu:.0%} MFU",
                speed=found.tokens_per_second,
                mfu=found.mfu,
            ),
        ),
        (
            tr("time"),
            tr(
                "{time} of steps, without evaluations and interruptions",
                time=duration(found.hours),
            ),
        ),
        (
            tr("cost"),
            tr(
                "{usd:,.0f} USD at {price:.2f} USD a GPU and hour ({source})",
                usd=found.usd,
                price=gpu.usd_per_hour,
                source=gpu.price_source,
            ),
        ),
        *(
            (tr("formula") if not i else "", f"{translated(name)} = {translated(how)}")
            for i, (name, how) in enumerate(formula())
        ),
        (
            "",
            tr("never run on a GPU by hornbook; docs/scale.md compares it with published runs"),
        ),
    ]


def formula() -> list[tuple[str, str]]:
    """How the figures follow from each other."""
    return [
        (
            msg("flops a token"),
            msg("6 x parameters in products + 12 x layers x width x tokens attended to"),
        ),
        (
            msg("passes"),
            msg(
                "tokens a GPU x ((products / {products} + attention / 2 / {attention}) / "
                "achievable flops + 2 x ({channel} x layers x width + {entry} x vocabulary) / "
                "memory bandwidth)",
                products=PRODUCTS_SHARE,
                attention=ATTENTION_SHARE,
                channel=MOVED_A_CHANNEL,
                entry=MOVED_AN_ENTRY,
            ),
        ),
        (
            msg("communication"),
            msg(
                "ddp: (8 x parameters + 4 x Muon's) x (1 - 1/GPUs) bytes, waited for; fsdp: (8 x "
                "passes x parameters + 4 x Muon's) x (1 - 1/GPUs), {exposed:.0%} waited for, or "
                "what exceeds the passes",
                exposed=FSDP_EXPOSED,
            ),
        ),
        (
            msg("update"),
            msg(
                "{bytes} x parameters a GPU / memory bandwidth + Muon's products / GPUs",
                bytes=UPDATE_BYTES,
            ),
        ),
        ("MFU", msg("flops a token x tokens/s / (GPUs x bfloat16 peak)")),
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
    title = tr(
        "{gpu}: {shape}; {tokens:,.0f} tokens",
        gpu=first.gpu.name,
        shape=shape,
        tokens=first.tokens,
    )
    console.print(title, highlight=False)
    parallel = tr("parallel")
    headings = (
        tr("GPUs"), parallel, tr("GB a GPU"), tr("batch"), tr("s a step"), tr("tokens/s"), "MFU",
        tr("time"), "USD",
    )  # fmt: skip
    rows = [
        (
            f"{run.gpus:,}",
            tr("{parallel}, recompute", parallel=each.parallel)
            if each.recompute
            else each.parallel,
            f"{each.memory.total / 1e9:.1f}" if each.fits else tr("does not fit"),
            f"{run.batch_tokens:,.0f}",
            f"{each.step_seconds:.3f}" if each.fits else "",
            f"{each.tokens_per_second:,.0f}" if each.fits else "",
            f"{each.mfu:.0%}" if each.fits else "",
            duration(each.hours) if each.fits else "",
            f"{each.usd:,.0f}" if each.fits else "",
        )
        for run, each in found
    ]
    numbers = tuple(name for name in headings if name != parallel)
    print_table(console, headings, rows, numbers=numbers, unbroken=(parallel,), drop=(3, 4))


def duration(hours: float) -> str:
    """Hours in the unit that reads best."""
    if hours >= 48:
        return tr("{days:,.1f} days", days=hours / 24)
    if hours >= 1:
        return tr("{hours:.1f} hours", hours=hours)
    return tr("{minutes:.1f} minutes", minutes=60 * hours)
