"""Minutes, machine, memory and text to the settings of fine-tuning: all weights or LoRA, how fast.

Nothing is predicted: no law says what a pre-trained model gains.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from hornbook.cores import slowdown
from hornbook.errors import ConfigError
from hornbook.kernels.runtime import give_back_freed_memory
from hornbook.language import msg
from hornbook.plan import costs, memory
from hornbook.plan.machine import Choice
from hornbook.plan.planner import Plan
from hornbook.plan.timing import Timer, time_step

if TYPE_CHECKING:
    from hornbook.config import Config, Request
    from hornbook.plan.costs import Text
    from hornbook.plan.machine import Machine

# AdamW's rates for all weights and for LoRA's factors, chosen on held-out training text after 12
# steps (docs/experiments.md).
RATE, LORA_RATE, LORA_RANK = 2e-4, 2e-3, 16
MOST_EPOCHS = 4
# A busy laptop should be left able to do other things.
COMFORTABLE_BYTES = 3_000_000_000
TOKENS_A_STEP = 2048
EVALUATIONS = 6
COMPILE = {
    "c": msg("c: C kernels, with nothing to wait for"),
    "off": msg("off: blocks run in PyTorch"),
}


def plan_tuning(
    request: Request, text: Text, machine: Machine, seconds: float, *, timer: Timer | None = None
) -> Plan:
    """The settings of fine-tuning for `seconds` from now, with all that was requested.

    Raises: ConfigError for too little memory, or a time too short for a step.
    """
    started, busy = time.monotonic(), slowdown()
    config, machine, why_weights = with_weights(request, text, machine)
    timed = (timer or time_step)(config, text.vocab_size, machine)
    give_back_freed_memory()  # of the model that was timed
    passed = time.monotonic() - started
    size = config.model.parameter_count(text.vocab_size)
    # Before the first step and after the last one, what the losses are measured on is read forward,
    # a third of a step's work; samples take as long again.
    reading = timed.token_seconds / 3
    beside = costs.concluding_seconds(config, text) + reading * 3 * text.validation_tokens
    left = (seconds - busy * beside - passed) / (1 + 0.1 * (size > 1e8))
    step_seconds = timed.of(config.tokens_per_step)
    steps = int(left / step_seconds)
    if steps < 1:
        raise ConfigError(
            msg(
                "--minutes {minutes:g}: not one step fits; a step of this model takes "
                "{step_seconds:.1f} s here, and measuring it {beside:.0f} s",
                minutes=config.train.minutes,
                step_seconds=step_seconds,
                beside=beside,
            )
        )
    most = max(1, math.ceil(MOST_EPOCHS * text.train_tokens / config.tokens_per_step))
    epochs = min(steps, most) * config.tokens_per_step / text.train_tokens
    parts = config.train.gradient_accumulation
    why_steps = msg(
        "about {steps:,} steps of {rows} x {block} tokens: {epochs:.1f} epochs",
        steps=min(steps, most),
        rows=f"{parts} x {config.train.batch_size}" if parts > 1 else config.train.batch_size,
        block=config.model.block_size,
        epochs=epochs,
    )
    if most < steps:
        why_steps = msg(
            "{steps}; more than {most} would memorise the text, so it ends early",
            steps=why_steps,
            most=MOST_EPOCHS,
        )
    steps = min(steps, most)
    interval = max(1, math.ceil(steps / EVALUATIONS))
    config = chosen(
        request, config, steps=steps, eval_interval=interval, checkpoint_interval=interval,
        sample_tokens=40,
    )  # fmt: skip
    reasons = (
        Choice("weights", why_weights),
        Choice("batches", why_steps),
        Choice("rate", msg("{rate:g} at first, falling to 0", rate=rate_of(config))),
        Choice("compile", COMPILE.get(config.train.compile, msg("requested"))),
        Choice("memory", memory_line(config, text, machine)),
    )
    return Plan(config, size, math.nan, beside, reasons)


def with_weights(request: Request, text: Text, machine: Machine) -> tuple[Config, Machine, str]:
    """All weights where they fit into memory, else LoRA; with the machine's choices, and why."""
    rows = max(1, TOKENS_A_STEP // request.config.model.block_size)
    base = chosen(
        request, request.config, batch_size=rows, precision=machine.precision.value
    )  # fmt: skip
    # A quarter less where threads share it evenly, before anything is computed twice.
    fewer = rows * 3 // 4
    sizes = [rows, fewer] if fewer and fewer % machine.threads == 0 else [rows]
    ways: list[int | None] = [None, LORA_RANK]
    rates = {"learning_rate": LORA_RATE}
    if request.requested("lora_rank"):
        ways = [base.model.lora_rank]
    elif base.model.with_counts:
        ways = [None]
    available = memory.available_bytes() if machine.device.value == "cpu" else None
    comfortable = min(available or COMFORTABLE_BYTES, COMFORTABLE_BYTES)
    config, why, running = base, "", machine
    for rank in ways:
        running = running_blocks(request, machine, lora=rank is not None)
        shared = {"lora_rank": rank, "compile": running.compile.value, **(rates if rank else {})}
        found = [
            chosen(request, base, **shared, batch_size=size, recompute=recompute)
            for recompute in (False, True)
            for size in sizes
        ]
        why = msg("all are trained")
        if rank is not None:
            given = request.requested("lora_rank")
            reason = msg("requested") if given else msg("all would not fit")
            why = msg("LoRA of rank {rank} beside them: {reason}", rank=rank, reason=reason)
        for most in (comfortable, available or math.inf):
            for config in found:
                if peak(config, text, running) <= most:
                    return config, running, why
    return config, running, msg("{why}, and even so memory may not be enough", why=why)


def running_blocks(request: Request, machine: Machine, *, lora: bool) -> Machine:
    """The machine's choices with what runs the blocks: C kernels train all weights, or none.

    torch.compile was not measured for fine-tuning.
    """
    way = machine.compile.value
    if not request.requested("compile") and (way != "c" or lora):
        way = "off"
    return replace(machine, compile=Choice(way, "planned"))


def chosen(request: Request, config: Config, **values: object) -> Config:
    """The settings with these values, but for those that were requested."""
    free = {name: value for name, value in values.items() if not request.requested(name)}
    return config.override(**free)


def rate_of(config: Config) -> float:
    """The rate that most weights are trained with."""
    rates = config.optimizer
    return rates.learning_rate if rates.optimizer == "adamw" else rates.muon_learning_rate


def peak(config: Config, text: Text, machine: Machine) -> int:
    """The estimated peak of memory."""
    resolved = machine.resolve(config)
    return memory.peak_bytes(resolved, text.vocab_size, text.countable, machine.sharing)


def memory_line(config: Config, text: Text, machine: Machine) -> str:
    """The estimate, and what keeps it low."""
    size = msg("about {size:,.0f} MiB", size=peak(config, text, machine) / memory.MIB)
    if not config.train.recompute:
        return size
    return msg("{size}; the inside of blocks is computed again in the backward pass", size=size)
