"""From a request to the run that is saved: the machine's choices, then the plan for its minutes."""

import time
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from hornbook.config import Config, Request
from hornbook.errors import ConfigError
from hornbook.eval.split import measure_split
from hornbook.kernels import NativeUnavailableError, decoder_library
from hornbook.kernels.mixer import mixer_library
from hornbook.language import msg
from hornbook.parallel.ranks import check_sharding
from hornbook.plan import memory
from hornbook.plan.costs import Text, mixer_pays
from hornbook.plan.machine import Choice, Machine, choose
from hornbook.plan.planner import Plan, plan, unplanned
from hornbook.plan.tokenizer import tokenized
from hornbook.plan.tuning import plan_tuning
from hornbook.text.corpus import Corpus
from hornbook.text.dataset import Dataset, check_length, prepare
from hornbook.text.tokenizer import Tokenizer

# Checkpoints of fewer bytes are written at once (docs/experiments.md, "What a save costs").
WORTH_A_THREAD = 32 * memory.MIB


@dataclass(frozen=True)
class Resolved:
    """A run as it is saved: settings without "auto", the machine's choices, the plan if any."""

    config: Config
    machine: Machine
    plan: Plan | None = None


def resolve(
    request: Request, machine: Machine, dataset: Dataset, *, started: float | None = None
) -> Resolved:
    """The run that follows from a request, a machine's choices for it, and its text.

    With `minutes` the run is to end so long after `started`, on the clock of time.monotonic (now,
    unless given).
    Raises: ConfigError for too few minutes or a run that does not fit into memory; DataError for a
    text too short.
    """
    started = time.monotonic() if started is None else started
    made = plan_minutes(request, machine, dataset, started)
    config = made.config if made else request.config
    if config.model.spec.counted:  # counted before the first step; a second would add nothing
        config = config.override(steps=1)
    if made and config.train.compile != machine.compile.value:
        (why,) = (each.why for each in made.reasons if each.value == "compile")
        machine = replace(machine, compile=Choice(config.train.compile, why))
    machine = with_parallel(config, machine, dataset)
    machine = with_async_save(config, machine, dataset)
    config = machine.resolve(config)
    check_length(dataset.train, config.model.block_size, "training")
    check_length(dataset.validation, 1, "validation")
    check_memory(config, machine, dataset)
    return Resolved(config, machine, made)


def dry_run(
    request: Request, corpus: Corpus, tokenizer: Tokenizer | None = None, *, started: float
) -> Plan:
    """The plan that `resolve` would follow; `tokenizer` is that of a model to begin from.

    Raises: ConfigError, DataError.
    """
    request, trial = tokenized(request, corpus)
    config, machine = request.config, choose(request.config)
    dataset = prepare(corpus, config.data, tokenizer)
    split = measure_split(corpus, dataset)
    made = plan_minutes(request, machine, dataset, started)
    made = made or unplanned(config, text_of(config, dataset))
    tried = (Choice("tokenizer", trial.choosing(config.data.tokenizer)),) if trial else ()
    return replace(made, split=split, reasons=(*tried, *made.reasons))


def plan_minutes(
    request: Request, machine: Machine, dataset: Dataset, started: float
) -> Plan | None:
    """The plan for `minutes` counted from `started`; None where none are set.

    Raises: ConfigError when they are too few.
    """
    config = request.config
    if not config.train.minutes or config.model.spec.counted:
        return None
    # What no plan may change must fit before a step of it is timed.
    if request.requested("block_size") or not config.model.spec.planned:
        check_length(dataset.train, config.model.block_size, "training")
    text = text_of(config, dataset)

    def left() -> float:
        return started + 60 * config.train.minutes - time.monotonic()

    if config.model.pretrained is not None:
        return plan_tuning(request, text, machine, left())

    def planned(config: Config) -> Plan:
        smallest = config if request.requested("batch_size") else config.override(batch_size=1)
        check_memory(smallest, machine, dataset)
        return plan(replace(request, config=config), text, machine, left())

    # 1 s, the first time on a machine, that belongs to no sample and no evaluation.
    with suppress(NativeUnavailableError):
        decoder_library()
    if may_join(request, machine):
        with suppress(ConfigError):  # too little time or memory for both: the network alone, then
            return planned(joined(request, text, left()))
    return planned(config)


def joined(request: Request, text: Text, seconds: float) -> Config:
    """The settings with n-grams beside the network and, where it pays, a mixer."""
    config = request.config.override(with_counts=True)
    if request.requested("with_mixer"):
        return config
    with suppress(NativeUnavailableError):  # without a C compiler there is none
        mixer_library()
        return config.override(with_mixer=mixer_pays(config, text, seconds))
    return config


def may_join(request: Request, machine: Machine) -> bool:
    """Whether a plan may join n-grams to the network; not on a GPU, where it is not measured."""
    model = request.config.model
    free = not model.with_counts and not request.requested("with_counts")
    return free and model.spec.joins_counts and machine.device.value == "cpu"


def with_parallel(config: Config, machine: Machine, dataset: Dataset) -> Machine:
    """The choices with one for `parallel`: weights are spread over ranks where all do not fit."""
    if config.train.parallel != "auto" or machine.ranks == 1:
        return machine
    text, free = text_of(config, dataset), free_bytes(machine)

    def needed(choice: Machine) -> int:
        resolved = choice.resolve(config)
        return memory.peak_bytes(resolved, text.vocab_size, text.countable, choice.sharing)

    if free is None or (replicated := needed(machine)) <= free:
        return machine
    with suppress(ConfigError):  # for memory, the reason then is
        spread = config.override(parallel="fsdp")
        check_sharding(spread, machine.ranks)
        chosen = choose(spread)
        if needed(chosen) <= free:
            why = msg(
                "all weights on each process would take {needed:,.0f} MiB, and {available:,.0f} "
                "are available",
                needed=replicated / memory.MIB,
                available=free / memory.MIB,
            )
            return replace(chosen, parallel=Choice("fsdp", why))
    return machine


def with_async_save(config: Config, machine: Machine, dataset: Dataset) -> Machine:
    """The choices with one for `async_save`: large checkpoints, where a copy of them fits too."""
    vocab_size, free = dataset.tokenizer.vocab_size, memory.available_bytes()
    size = memory.saved_bytes(machine.resolve(config), vocab_size, machine.sharing)
    if config.train.async_save != "auto" or size < WORTH_A_THREAD:
        return machine
    why = msg(
        "a checkpoint has {size:,.0f} MiB, and training goes on while it is written",
        size=size / memory.MIB,
    )
    chosen, needed = replace(machine, async_save=Choice("on", why)), machine.sharing.here * size
    if machine.device.value == "cpu":
        resolved, text = chosen.resolve(config), text_of(config, dataset)
        needed = memory.peak_bytes(resolved, vocab_size, text.countable, machine.sharing)
    return chosen if free is None or needed <= free else machine


def free_bytes(machine: Machine) -> int | None:
    """Memory available on the machine's device; None where that is not known."""
    if machine.device.value == "cuda":
        free: int = torch.cuda.mem_get_info()[0]
        return free
    return memory.available_bytes() if machine.device.value == "cpu" else None


def check_memory(config: Config, machine: Machine, dataset: Dataset) -> None:
    """Check that a run fits, where the estimate was measured: on a CPU.

    Raises: ConfigError with the size that would fit.
    """
    if machine.device.value == "cpu":
        text, resolved = text_of(config, dataset), machine.resolve(config)
        free = free_bytes(machine)
        memory.check(resolved, text.vocab_size, free, text.countable, machine.sharing)


def text_of(config: Config, dataset: Dataset) -> Text:
    """What a plan needs to know of a dataset."""
    sizes = dataset.train_tokens, len(dataset.validation), dataset.tokenizer.vocab_size
    return Text(*sizes, memory.Countable.of(config.model, dataset))
