"""Temporary: moves to plan/."""

import time
from collections.abc import Collection
from contextlib import suppress

from hornbook.config import Config, ModelConfig
from hornbook.errors import ConfigError
from hornbook.kernels import NativeUnavailableError, decoder_library
from hornbook.ngram.tuning import MAX_ORDER as LONGEST
from hornbook.plan import budget, machine, memory
from hornbook.text.arrays import Tokens
from hornbook.text.corpus import Corpus
from hornbook.text.dataset import Dataset, check_length, prepare


def dry_run(
    config: Config, corpus: Corpus, *, started: float, asked: Collection[str] = ()
) -> budget.Plan:
    """The plan that `begin` would follow, and nothing made of it.

    Raises: ConfigError, DataError.
    """
    chosen = machine.choose(config)
    dataset = prepare(corpus, config.data)
    plan = plan_minutes(config, dataset, chosen, started, asked)
    return plan or budget.unplanned(config, size_of(config, dataset))


def plan_minutes(
    config: Config,
    dataset: Dataset,
    chosen: machine.Machine,
    started: float,
    asked: Collection[str],
) -> budget.Plan | None:
    """The plan for `minutes` counted from `started`; None where none are set.

    Raises: ConfigError when they are too few.
    """
    if not config.train.minutes or config.model.model == "ngram":
        return None
    # What no plan may change must fit before a step of it is timed.
    if "block_size" in asked or config.model.model != "gpt":
        check_length(dataset.train, config.model.block_size, "training")

    def planned(config: Config) -> budget.Plan:
        smallest = config if "batch_size" in asked else config.override(batch_size=1)
        check_memory(settled(smallest, chosen), chosen, dataset)
        seconds = started + 60 * config.train.minutes - time.monotonic()
        return budget.plan(config, size_of(config, dataset), chosen, seconds, asked=asked)

    # 1 s, the first time on a machine, that belongs to no sample and no evaluation.
    with suppress(NativeUnavailableError):
        decoder_library()
    if budget.may_join(config, chosen, asked):
        with suppress(ConfigError):  # Too little time or memory for both: the network alone, then.
            return planned(config.override(with_counts=True))
    return planned(config)


def settled(config: Config, chosen: machine.Machine) -> Config:
    """The settings with what was chosen for this machine in them."""
    return config.override(
        device=chosen.device.value,
        precision=chosen.precision.value,
        compile=chosen.compile.value,
        threads=chosen.threads,
    )


def size_of(config: Config, dataset: Dataset) -> budget.Text:
    """What a plan needs to know of a text."""
    return budget.Text(
        len(dataset.train),
        len(dataset.validation),
        dataset.tokenizer.vocab_size,
        countable(config.model, dataset),
    )


def check_memory(config: Config, chosen: machine.Machine, dataset: Dataset) -> None:
    """See that the run fits, where the estimate was measured: on a CPU.

    Raises: ConfigError with the size that would fit.
    """
    if chosen.device.value == "cpu":
        memory.check(
            config,
            dataset.tokenizer.vocab_size,
            memory.available_bytes(),
            countable(config.model, dataset),
        )


def countable(model: ModelConfig, dataset: Dataset) -> memory.Countable | None:
    """What of a text is counted, as far as memory goes; None where nothing is."""
    if not model.reads_counts:
        return None
    order, vocab_size = model.order or LONGEST, dataset.tokenizer.vocab_size
    return memory.Countable.sample(counted_part(model, dataset), vocab_size, order)


def counted_part(model: ModelConfig, dataset: Dataset) -> Tokens:
    """The training text as far as it is counted."""
    return dataset.train[-model.counted_tokens :] if model.with_counts else dataset.train
