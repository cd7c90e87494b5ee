"""Minutes, machine and text to settings: which model, in what portions, for how long.

How good a shape gets is read off a scaling law; how many tokens it can learn from in the time, off
steps of the real thing timed on this machine. The shape with the least predicted loss is taken.
"""

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch

from hornbook.config import Config
from hornbook.errors import ConfigError
from hornbook.eval.loss import MOST_EVALUATED
from hornbook.models import build, outline
from hornbook.optim.optimizer import Optimizers
from hornbook.plan import memory
from hornbook.plan.machine import (
    Choice,
    Machine,
    multiplies_in_tiles,
    obstacle_to_c,
    obstacle_to_compiling,
)
from hornbook.plan.prepare import prepare

# Layers, heads, width: from 0.1 million parameters to 300 million.
SHAPES = (
    (2, 2, 64),
    (3, 3, 96),
    (4, 4, 128),
    (4, 6, 192),
    (6, 8, 256),
    (6, 6, 384),
    (8, 8, 512),
    (12, 12, 768),
    (24, 16, 1024),
)
SHAPE_FIELDS = ("n_layer", "n_head", "n_embd")
SHORTEST_SECONDS = 2.0
# What comes after the last step, measured on two cores with tiny Shakespeare: the report card, and
# counting the training text. Beside a network it is counted first, six times over.
CONCLUDING_SECONDS = 2.9
COUNTING_SECONDS_A_TOKEN = 1.6e-6
JOINT_COUNTING_SECONDS_A_TOKEN, BASELINES_SECONDS_A_TOKEN = 3.2e-6, 0.4e-6
COUNTING_SHARE, COUNTING_BYTES, FEWEST_COUNTED = 0.4, 800_000_000, 10_000
# The share of the time that may go into timing the machine.
TIMING_SHARE = 0.03
# Compiling the default's block on two cores (docs/experiments.md), and what is left of a step then.
COMPILE_SECONDS = 22.0
COMPILED_SHARE = 0.73
MOST_PARAMETERS_A_TOKEN = 10
# An evaluation, with a sample and a checkpoint, takes 0.1 to 0.4 s of the smallest shapes.
SECONDS_AN_EVALUATION = 6
MOST_STEPS = 10**9
SIZE_POWER = 0.7
WARM_UP_STEPS = 3
RECENT_STEPS = 100


@dataclass(frozen=True)
class Law:
    """A scaling law, as `predicted_loss` reads it."""

    floor: float
    size_term: float
    text_term: float
    text_power: float
    steps_half_worth: float
    epochs_worth: float  # for each token that there is to a parameter


# At the most: of models small for their text.
MOST_EPOCHS_WORTH = 15
# Fitted to the runs under "Which size for which time" in docs/experiments.md. Beside counts a
# network learns what is left, in which its size tells little.
NETWORK_LAW = Law(1.209, 0.0426, 0.2258, 0.355, 368, 4.7)
LAW_WITH_COUNTS = Law(1.300, 0.0041, 0.028, 0.497, 611, math.inf)


@dataclass(frozen=True)
class Joining:
    """Seconds that counts add to a network's, and how many more each of the vocabulary takes.

    To a step of training, to a token of it, and to a token that is read without training; and how
    long the network itself takes over that, beside its training.
    """

    step: float
    token: float
    token_and_entry: float
    read: float
    read_and_entry: float
    network_read: float


# Two cores; 2 to 32 x 128 tokens of 65 letters, 1,024 pieces of words and 1,367 syllables. Whatever
# trains in C is read by torch afterwards, but for its counts.
JOINING_IN_C = Joining(0.001, 1.6e-6, 4.5e-9, 0.8e-6, 2.2e-9, 0.9)
JOINING_BY_TORCH = Joining(0.008, 0.8e-5, 1e-8, 1.2e-5, 1e-8, 0.5)


@dataclass(frozen=True)
class Text:
    """What a plan needs to know of a prepared text."""

    train_tokens: int
    validation_tokens: int
    vocab_size: int
    countable: memory.Countable | None = None


@dataclass(frozen=True)
class StepTime:
    """What a step takes: for each token read, for reading whatever its size, and for the update."""

    token_seconds: float
    reading_seconds: float
    update_seconds: float

    def of(self, tokens: int, *, compiled: bool = False) -> float:
        """A step of so many tokens; compiling quickens the reading, not the update."""
        reading = tokens * self.token_seconds + self.reading_seconds
        return reading * (COMPILED_SHARE if compiled else 1.0) + self.update_seconds

    def grown(self, growth: float) -> "StepTime":
        """The same of a model so many times as large."""
        return StepTime(*(growth * each for each in dataclasses.astuple(self)))


@dataclass(frozen=True)
class Plan:
    """Settings for a budget, and why they were chosen."""

    config: Config
    parameters: int
    predicted_loss: float
    concluding_seconds: float = 0.0
    reasons: tuple[Choice, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """The plan as `train --dry-run --json` prints it."""
        return {
            "parameters": self.parameters,
            "settings": dataclasses.asdict(self.config),
            "reasons": {reason.value: reason.why for reason in self.reasons},
        }


Timer = Callable[[Config, int, Machine], StepTime]


def plan(
    config: Config,
    text: Text,
    machine: Machine,
    seconds: float,
    *,
    asked: Collection[str] = (),
    timer: Timer | None = None,
) -> Plan:
    """The settings of the best model for `seconds` from now; those `asked` for stay as they are.

    `timer` tells what a step of some settings takes on this machine (`time_step` unless given).
    Raises: ConfigError for a time too short to train in.
    """
    started = time.monotonic()
    if machine.compile.value == "c":
        config = config.override(compile="c")
    if "counted_tokens" not in asked:
        config = count_within(config, text, seconds)
    concluding = concluding_seconds(config, text)
    left = seconds - concluding - counting_before(config, text)
    if left < SHORTEST_SECONDS:
        raise ConfigError(
            f"{max(0.0, seconds):.0f} seconds are too few for this text: about "
            f"{concluding + SHORTEST_SECONDS:.0f} are needed once it is read; "
            "give more --minutes"
        )
    most_bytes = memory.available_bytes() if machine.device.value == "cpu" else None
    search = Search(config, text, machine, frozenset(asked), timer or time_step, most_bytes)
    times = list(search.timed(TIMING_SHARE * seconds))
    left -= time.monotonic() - started
    plans = [each for timed in times for each in search.candidates(*timed, left)]
    if not plans:
        raise ConfigError(
            f"not one step fits into {left:.0f} seconds; give more --minutes or a smaller model"
        )
    best = min(plans, key=lambda each: each.predicted_loss)
    return dataclasses.replace(best, reasons=tuple(explain(best, plans, text)))


@dataclass(frozen=True)
class Search:
    """All plans that there are for one text on one machine."""

    config: Config
    text: Text
    machine: Machine
    asked: frozenset[str]
    timer: Timer
    most_bytes: int | None

    def timed(self, seconds: float) -> Iterator[tuple[Config, str, StepTime]]:
        """Each shape, run in C or by torch, and what its step takes.

        Timed while the seconds last, then extrapolated; what torch compiles is reckoned from eager.
        """
        ways = sorted({"c" if way == "c" else "off" for way in self.ways()})
        for way in ways:
            started = time.monotonic()
            last, last_size = StepTime(0.0, 0.0, 0.0), 0
            machine = dataclasses.replace(self.machine, compile=Choice(way, "timed"))
            for shaped in self.shapes():
                size = parameter_count(shaped, self.text.vocab_size)
                growth = size / last_size if last_size else 1.0
                # The timing's eight small steps, and as much again to set up.
                expected = 12 * growth * last.of(1000)
                if time.monotonic() - started + expected < seconds / len(ways) or not last_size:
                    last = self.timer(shaped, self.text.vocab_size, machine)
                else:
                    last = last.grown(growth)
                last_size = size
                yield shaped, way, last

    def shapes(self) -> list[Config]:
        """The settings in every shape, or in the one asked for."""
        if self.config.model.model != "gpt" or self.asked & set(SHAPE_FIELDS):
            return [self.config]
        most = max(MOST_PARAMETERS_A_TOKEN * self.text.train_tokens, 1.5e5)
        shaped = [
            self.config.override(**dict(zip(SHAPE_FIELDS, shape, strict=True))) for shape in SHAPES
        ]
        return shaped[:1] + [
            each for each in shaped[1:] if parameter_count(each, self.text.vocab_size) < most
        ]

    def candidates(
        self, config: Config, way: str, step: StepTime, seconds: float
    ) -> Iterator[Plan]:
        """Every batch size of one shape, in C or by torch: the steps that fit, their loss."""
        size = parameter_count(config, self.text.vocab_size)
        block = self.block_size()
        evaluations = min(10, max(1, int(seconds / SECONDS_AN_EVALUATION)))
        rows = [2**n for n in range(12)]
        if "batch_size" in self.asked or config.model.model != "gpt":
            rows = [config.train.batch_size]
        concluding = concluding_seconds(config, self.text, step.token_seconds)
        evaluating = concluding - concluding_seconds(config, self.text)
        for how in [how for how in self.ways() if (how == "c") == (way == "c")]:
            compiled = how == "on"
            training_seconds = seconds - evaluating - (COMPILE_SECONDS if compiled else 0.0)
            for batch_size in rows:
                step_tokens = batch_size * block * config.train.gradient_accumulation
                step_seconds = step.of(step_tokens, compiled=compiled)
                steps = min(MOST_STEPS, int(training_seconds / step_seconds))
                if steps < 1:
                    continue
                tokens = steps * step_tokens
                values = {
                    "block_size": block,
                    "batch_size": batch_size,
                    "steps": steps,
                    "dropout": dropout(config, size, tokens, self.text),
                    "weight_decay": weight_decay(config, tokens, self.text),
                    "compile": how,
                    "eval_interval": max(1, steps // evaluations),
                    "checkpoint_interval": max(1, steps // evaluations),
                    "sample_tokens": min(config.train.sample_tokens, int(seconds)),
                }
                chosen = config.override(
                    **{name: value for name, value in values.items() if name not in self.asked}
                )
                if self.most_bytes and self.needs(chosen) > self.most_bytes and batch_size > 1:
                    continue
                yield Plan(
                    chosen,
                    size,
                    predicted_loss(
                        size,
                        tokens,
                        steps,
                        self.text.train_tokens,
                        with_counts=config.model.with_counts,
                    ),
                    concluding,
                )

    def needs(self, config: Config) -> int:
        """The memory that settings take."""
        return memory.peak_bytes(config, self.text.vocab_size, self.text.countable)

    def block_size(self) -> int:
        """The block asked for, or the usual one, halved until a short text holds a few."""
        block = self.config.model.block_size
        if "block_size" not in self.asked and self.config.model.model == "gpt":
            while block > 8 and block * 4 > self.text.train_tokens:
                block //= 2
        return block

    def ways(self) -> list[str]:
        """How blocks may be run: as asked; in C, which beats torch without AMX; by torch."""
        settled = self.config.train.compile
        if settled != "auto" or self.config.model.model != "gpt":
            return ["off" if settled == "auto" else settled]
        device, precision = self.machine.device.value, self.machine.precision.value
        by_torch = ["off"] if obstacle_to_compiling(device) or device == "mps" else ["off", "on"]
        if obstacle_to_c(self.shapes()[0], device, precision):
            return by_torch
        return ["c", *by_torch] if multiplies_in_tiles(precision) else ["c"]


def predicted_loss(
    parameters: int,
    tokens: int,
    steps: int,
    unique_tokens: int,
    *,
    with_counts: bool = False,
) -> float:
    """Loss in nats per character at the end: a guide for choosing, not a promise.

    Few large steps teach less than many small ones from the same tokens (the form is McCandlish
    et al. 2018's, arXiv:1812.06162), and tokens read again less than new ones, a share of 1/e
    after so many epochs (Muennighoff et al. 2023, arXiv:2305.16264): fewer, the more of the text
    the model could hold. What is left enters Hoffmann et al. 2022's law, arXiv:2203.15556.
    """
    law = LAW_WITH_COUNTS if with_counts else NETWORK_LAW
    again = max(0.0, tokens / unique_tokens - 1)
    epochs_worth = min(MOST_EPOCHS_WORTH, law.epochs_worth * unique_tokens / parameters)
    repeated = epochs_worth * (1 - math.exp(-again / epochs_worth))
    fresh = min(tokens, unique_tokens) + unique_tokens * repeated
    worth = fresh / (1 + law.steps_half_worth / steps)
    return (
        law.floor
        + law.size_term * (1e6 / parameters) ** SIZE_POWER
        + law.text_term * (1e6 / worth) ** law.text_power
    )


def dropout(config: Config, parameters: int, tokens: int, text: Text) -> float:
    """More of it the more often a model that is large for its text reads it.

    Measured (docs/experiments.md): at a strain of 9, 0.1 costs 0.05 nats, at 10 another text's
    0.01; at 13 it gains 0.08; at 25 0.2 gains another 0.03.
    """
    if config.model.model != "gpt":
        return config.model.dropout
    strain = parameters * tokens / text.train_tokens**2
    return 0.0 if strain < 12 else 0.1 if strain < 20 else 0.2


def weight_decay(config: Config, tokens: int, text: Text) -> float:
    """More of it where the text is read again and again.

    Measured (docs/experiments.md): read 1.4 times, 0.03 gains 0.005 nats on 0.1; read 8 times, 0.1
    gains 0.014 on 0.03.
    """
    if config.model.model != "gpt" or tokens < 4 * text.train_tokens:
        return config.optimizer.weight_decay
    return 0.1


def concluding_seconds(config: Config, text: Text, token_seconds: float = 0.0) -> float:
    """What the exact loss, the counting and the report take after the last step.

    `token_seconds` is what a token takes in training.
    """
    model, joining = config.model, joining_of(config)
    reading = joining.network_read * token_seconds
    if model.with_counts:
        reading += joining.read + text.vocab_size * joining.read_and_entry
    a_token = BASELINES_SECONDS_A_TOKEN if model.with_counts else COUNTING_SECONDS_A_TOKEN
    evaluated = min(text.validation_tokens, MOST_EVALUATED) * reading
    return CONCLUDING_SECONDS + counted_tokens(config, text) * a_token + evaluated


def joining_of(config: Config) -> Joining:
    """What counts take beside a network trained so."""
    return JOINING_IN_C if config.train.compile == "c" else JOINING_BY_TORCH


def counting_before(config: Config, text: Text) -> float:
    """How long a text is counted before the first step, beside a network."""
    a_token = JOINT_COUNTING_SECONDS_A_TOKEN if config.model.with_counts else 0.0
    return counted_tokens(config, text) * a_token


def counted_tokens(config: Config, text: Text) -> int:
    """How much of a text is counted."""
    return min(text.train_tokens, config.model.counted_tokens)


def count_within(config: Config, text: Text, seconds: float) -> Config:
    """The settings, with as much of the text to count as time and memory allow.

    Most of the time is left to the network.
    """
    counted = most = counted_tokens(config, text)
    rest = concluding_seconds(config.override(counted_tokens=1), text)
    free = min(COUNTING_SHARE * seconds, seconds * (1 - TIMING_SHARE) - rest - SHORTEST_SECONDS)
    needed = concluding_seconds(config, text) - rest + counting_before(config, text)
    if needed > free:
        counted = int(most * free / needed)
    if text.countable:
        peak, _ = text.countable.bytes(config.model)
        counted = min(counted, int(text.countable.tokens * COUNTING_BYTES / peak))
    if FEWEST_COUNTED <= counted < most:
        return config.override(counted_tokens=counted)
    return config


def may_join(config: Config, machine: Machine, asked: Collection[str]) -> bool:
    """Whether counts beside the network are the plan's to choose; not so on a GPU, unmeasured."""
    free = config.model.model == "gpt" and not config.model.with_counts
    return free and "with_counts" not in asked and machine.device.value == "cpu"


def parameter_count(config: Config, vocab_size: int) -> int:
    """A model's distinct numbers, without making them."""
    model = config.model
    if model.model == "ngram":
        return 0
    if model.model != "gpt":
        return outline(model, vocab_size).parameter_count
    return memory.parameters(model, vocab_size)


def time_step(config: Config, vocab_size: int, machine: Machine) -> StepTime:
    """Time small steps and somewhat larger ones: a few of each, the quickest counted.

    What both have in common is what reading takes whatever its size.
    """
    device = machine.device.value
    with torch.random.fork_rng(devices=[]):
        network = dataclasses.replace(config.model, with_counts=False)
        model = build(network, vocab_size)
        prepare(model, machine)
        optimizers = Optimizers(model, config.optimizer, machine.kernels)
        block_size = config.model.block_size
        few = max(1, 256 // block_size)
        many = max(2 * few, 1024 // block_size)
        quickest = {few: math.inf, many: math.inf}
        updating = math.inf
        for rows in (many, few) * 4:
            idx_BT = torch.randint(vocab_size, (rows, block_size), device=device)
            begun = clock(device)
            _, loss = model(idx_BT, idx_BT)
            loss.backward()
            read = clock(device)
            optimizers.step(0.0)
            quickest[rows] = min(quickest[rows], read - begun)
            updating = min(updating, clock(device) - read)
    # Noise must not make tokens cost next to nothing.
    row_seconds = max((quickest[many] - quickest[few]) / (many - few), quickest[many] / many / 3)
    reading_seconds = max(0.0, quickest[many] - many * row_seconds)
    if not config.model.with_counts:
        return StepTime(row_seconds / block_size, reading_seconds, updating)
    joining = joining_of(config.override(compile=machine.compile.value))
    return StepTime(
        row_seconds / block_size + joining.token + vocab_size * joining.token_and_entry,
        reading_seconds,
        updating + joining.step,
    )


def clock(device: str) -> float:
    """The time, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def explain(best: Plan, plans: list[Plan], text: Text) -> Iterator[Choice]:
    """The plan in four lines, each decision with its reason."""
    model, train = best.config.model, best.config.train
    tokens = train.steps * train.batch_size * train.gradient_accumulation * model.block_size
    others = sorted({each.parameters for each in plans})
    at = others.index(best.parameters)

    def margin(size: int) -> str:
        least = min(each.predicted_loss for each in plans if each.parameters == size)
        return f"{least - best.predicted_loss:.3f} nats better than {size / 1e6:.2f} million"

    counted = counted_tokens(best.config, text)
    counts = f", beside counts of {counted:,} tokens" if model.with_counts else ""
    beside = [margin(others[i]) for i in (at - 1, at + 1) if 0 <= i < len(others)]
    yield Choice(
        "size",
        f"{model.n_layer} layers, {model.n_embd} wide: {best.parameters / 1e6:.2f} million "
        f"parameters{counts}{'; expected to be ' + ' and '.join(beside) if beside else ''}",
    )
    yield Choice(
        "portions",
        f"about {train.steps:,} steps of {train.batch_size} x {model.block_size} tokens: the text "
        f"{tokens / text.train_tokens:.1f} times over",
    )
    yield Choice(
        "compile",
        {
            "c": "c: blocks in C, with nothing to wait for",
            "on": f"on: {COMPILE_SECONDS:.0f} s to compile, and a step takes "
            f"{COMPILED_SHARE:.0%} of the time",
        }.get(train.compile, "off: it would not pay in this time"),
    )
    yield Choice(
        "dropout",
        f"{model.dropout:g}: "
        + (
            "the text is read often enough to be learned by heart"
            if model.dropout
            else "the text is large enough not to be learned by heart"
        ),
    )


class Pace:
    """Keeps the number of steps such that training ends when its time does.

    `deadline` is on the given clock, in seconds. The plan is looked at anew at steps 4, 8, 16 and
    so on, after each evaluation, and at each of the last steps: the learning rate then follows
    the new total from where it is.
    """

    def __init__(self, deadline: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.deadline = deadline
        self.clock = clock
        self.taken = 0
        self.recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self.evaluation_seconds = 0.0

    def took(self, seconds: float) -> None:
        """Note what a step took; the first few, which set up, are not counted."""
        self.taken += 1
        if self.taken > WARM_UP_STEPS:
            self.recent.append(seconds)

    def steps(self, step: int, total: int, eval_interval: int) -> int:
        """How many steps there should be in all, `step` of a planned `total` being done."""
        left = self.deadline - self.clock() - self.evaluation_seconds
        if left <= 0:
            return step
        power_of_two = self.taken & (self.taken - 1) == 0
        due = power_of_two or step % eval_interval == 1 or step > 0.9 * total
        if not self.recent or not due:
            return total
        seconds = sum(self.recent) / len(self.recent) + self.evaluation_seconds / eval_interval
        return step + int(left / seconds)


def unplanned(config: Config, text: Text) -> Plan:
    """Settings that say themselves how long to train, as a plan."""
    if config.model.model == "ngram":
        counting = Choice("counting", "the whole text, once; there is nothing to train")
        return Plan(config, 0, math.nan, reasons=(counting,))
    size = parameter_count(config, text.vocab_size)
    tokens = config.train.steps * config.train.batch_size * config.model.block_size
    loss = predicted_loss(
        size,
        tokens,
        config.train.steps,
        text.train_tokens,
        with_counts=config.model.with_counts,
    )
    made = Plan(config, size, loss)
    return dataclasses.replace(made, reasons=tuple(explain(made, [made], text)))
