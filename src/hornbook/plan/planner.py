"""Minutes, machine and text to settings: which model, in batches of what size, for how many steps.

A scaling law (`law`) says how good a shape gets; steps timed on this machine (`timing`) say how
many tokens it can learn from in the time. The plan has the least predicted loss.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from hornbook.config import Config, Request
from hornbook.cores import slowdown
from hornbook.errors import ConfigError
from hornbook.eval.split import Split
from hornbook.language import msg
from hornbook.plan import costs, law, memory
from hornbook.plan import machine as machines
from hornbook.plan.costs import Text, concluding_seconds
from hornbook.plan.explain import explain
from hornbook.plan.machine import Choice, Machine
from hornbook.plan.timing import COMPILE_SECONDS, StepTime, Timer, time_step

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
MOST_PARAMETERS_A_TOKEN = 10
# An evaluation, with a sample and a checkpoint, takes 0.1 to 0.4 s of the smallest shapes.
SECONDS_AN_EVALUATION = 6
# A step with dropout takes so many times as long as the timed one without.
DROPPING = 1.04
# Of a slow machine's time; a plan may be wrong there.
MOST_EVALUATING = 0.1
MOST_STEPS = 10**9


@dataclass(frozen=True)
class Plan:
    """Settings for a time, and why they were chosen; "auto" is the machine's still to resolve."""

    config: Config
    parameters: int
    predicted_loss: float
    concluding_seconds: float = 0.0
    reasons: tuple[Choice, ...] = ()
    split: Split | None = None
    textual_seconds: float = 0.0  # of the concluding ones, those beside a mixer's first pass

    def as_dict(self) -> dict[str, object]:
        """The plan as `train --dry-run --json` prints it."""
        # What is shown as "batches" has had another name in JSON from the start.
        names = {"batches": "portions"}
        reasons = {names.get(each.value, each.value): each.why for each in self.reasons}
        figures = {"parameters": self.parameters, "settings": asdict(self.config)}
        split = self.split.as_dict() if self.split else None
        return {**figures, "reasons": reasons, "split": split}


def plan(
    request: Request, text: Text, machine: Machine, seconds: float, *, timer: Timer | None = None
) -> Plan:
    """The settings of the best model for `seconds` from now, with all that was requested.

    `timer` says what a step of some settings takes on this machine (`time_step` unless given).
    Raises: ConfigError for a time too short to train in.
    """
    started, busy = time.monotonic(), slowdown()
    config = request.config
    if machine.compile.value == "c":
        config = config.override(compile="c")
    if not request.requested("counted_tokens"):
        # On too busy a machine as on an idle one: it ends late then, but knows its text.
        enough = costs.most_counted(config, text, seconds / busy) >= costs.FEWEST_COUNTED
        config = costs.count_within(config, text, seconds / (busy if enough else 1.0))
    beside = costs.around_seconds(config, text)
    left = seconds - beside
    if left < costs.SHORTEST_SECONDS:
        needed = seconds - left + costs.SHORTEST_SECONDS
        enough = config.train.minutes + (needed - seconds) / 60
        raise ConfigError(
            msg(
                "--minutes {minutes:g}: {left} s of it are left once the text is read, and "
                "about {needed} s are needed; give --minutes {enough:g} or more",
                minutes=config.train.minutes,
                left=max(0, math.floor(seconds)),
                needed=math.ceil(needed),
                enough=math.ceil(10 * enough) / 10,
            )
        )
    most_bytes = memory.available_bytes() if machine.device.value == "cpu" else None
    search = Search(replace(request, config=config), text, machine, timer or time_step, most_bytes)
    times = list(search.timed(costs.TIMING_SHARE * seconds))
    timing = time.monotonic() - started
    plans: list[Plan] = []
    # The costs are an idle machine's. A busy one is no reason to refuse: the run ends late then.
    for beside_seconds in (busy * beside, beside):
        left = seconds - beside_seconds - timing
        plans = plans or [each for timed in times for each in search.candidates(*timed, left)]
    if not plans:
        raise ConfigError(
            msg(
                "not one step fits into {left:.0f} seconds; give more --minutes or a smaller model",
                left=left,
            )
        )
    best = min(plans, key=lambda each: each.predicted_loss)
    return replace(best, reasons=tuple(explain(best, plans, text)))


def unplanned(config: Config, text: Text) -> Plan:
    """Settings that say themselves how long to train, as a plan."""
    if config.model.spec.counted:
        counting = Choice("counting", msg("the whole text, once; there is nothing to train"))
        return Plan(config, 0, math.nan, reasons=(counting,))
    size, steps = config.model.parameter_count(text.vocab_size), config.train.steps
    tokens, joint = steps * config.tokens_per_step, config.model.with_counts
    loss = law.predicted_loss(size, tokens, steps, text.train_tokens, with_counts=joint)
    made = Plan(config, size, loss)
    return replace(made, reasons=tuple(explain(made, [made], text)))


@dataclass(frozen=True)
class Search:
    """All plans for one request, text and machine."""

    request: Request
    text: Text
    machine: Machine
    timer: Timer
    most_bytes: int | None

    @property
    def config(self) -> Config:
        """The settings that a candidate starts from."""
        return self.request.config

    @property
    def planned(self) -> bool:
        """Whether the model's shape is the plan's to choose, but for what was requested."""
        return self.config.model.spec.planned

    def timed(self, seconds: float) -> Iterator[tuple[Config, str, StepTime]]:
        """Each shape, with C kernels ("c") or by PyTorch ("off"), and what its step takes.

        Timed while the seconds last, then extrapolated.
        """
        ways = sorted({"c" if way == "c" else "off" for way in self.ways()})
        for way in ways:
            started, last, last_size = time.monotonic(), StepTime(0.0, 0.0, 0.0), 0
            machine = replace(self.machine, compile=Choice(way, "timed"))
            for shaped in self.shapes():
                size = shaped.model.parameter_count(self.text.vocab_size)
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
        """The settings in every shape, or in the one requested."""
        if not self.planned or self.request.requested(*SHAPE_FIELDS):
            return [self.config]
        most = max(MOST_PARAMETERS_A_TOKEN * self.text.train_tokens, 1.5e5)
        smallest, *larger = (
            self.config.override(**dict(zip(SHAPE_FIELDS, shape, strict=True))) for shape in SHAPES
        )
        return [smallest] + [
            each for each in larger if each.model.parameter_count(self.text.vocab_size) < most
        ]

    def candidates(
        self, config: Config, way: str, step: StepTime, seconds: float
    ) -> Iterator[Plan]:
        """A plan for every batch size of one shape that leaves time for a step."""
        size = config.model.parameter_count(self.text.vocab_size)
        evaluations = min(10, max(1, int(seconds / SECONDS_AN_EVALUATION)))
        concluding = concluding_seconds(config, self.text, step.token_seconds)
        evaluating = concluding - concluding_seconds(config, self.text)
        evaluation = costs.evaluation_seconds(config, self.text, step.token_seconds)
        left = max(0.0, seconds - evaluating)
        evaluating += min(evaluations * evaluation, MOST_EVALUATING * left)
        for how in [how for how in self.ways() if (how == "c") == (way == "c")]:
            compiled = how == "on"
            training_seconds = seconds - evaluating - (COMPILE_SECONDS if compiled else 0.0)
            machine = replace(self.machine, compile=Choice(how, "planned"))
            for batch_size in self.batch_sizes():
                shaped = self.chosen(config, batch_size=batch_size, block_size=self.block_size())
                step_seconds = step.of(shaped.tokens_per_step, compiled=compiled)
                steps = min(MOST_STEPS, int(training_seconds / step_seconds))
                if steps < 1:
                    continue
                tokens = steps * shaped.tokens_per_step
                regularised = self.regularisation(size, tokens)
                if regularised.get("dropout"):
                    steps = max(1, int(steps / DROPPING))
                    tokens = steps * shaped.tokens_per_step
                chosen = self.chosen(
                    shaped,
                    steps=steps,
                    compile=how,
                    eval_interval=max(1, steps // evaluations),
                    checkpoint_interval=max(1, steps // evaluations),
                    sample_tokens=min(config.train.sample_tokens, int(seconds)),
                    **regularised,
                )
                if batch_size > 1 and not self.fits(machine.resolve(chosen)):
                    continue
                joint = config.model.with_counts
                loss = law.predicted_loss(
                    size, tokens, steps, self.text.train_tokens, with_counts=joint
                )
                textual = costs.textual_seconds(config, self.text)
                yield Plan(chosen, size, loss, concluding, textual_seconds=textual)

    def chosen(self, config: Config, **values: object) -> Config:
        """The settings with these values, but for those that were requested."""
        free = {name: value for name, value in values.items() if not self.request.requested(name)}
        return config.override(**free)

    def batch_sizes(self) -> list[int]:
        """The batch sizes to try."""
        if not self.planned or self.request.requested("batch_size"):
            return [self.config.train.batch_size]
        return [2**n for n in range(12)]

    def block_size(self) -> int:
        """The usual block, halved until a short text holds a few."""
        block = self.config.model.block_size
        if self.planned:
            while block > 8 and block * 4 > self.text.train_tokens:
                block //= 2
        return block

    def regularisation(self, size: int, tokens: int) -> dict[str, float]:
        """Dropout and weight decay for so many parameters and tokens."""
        if not self.planned:
            return {}
        usual = self.config.optimizer.weight_decay
        return {
            "dropout": law.dropout(size, tokens, self.text.train_tokens),
            "weight_decay": law.weight_decay(usual, tokens, self.text.train_tokens),
        }

    def fits(self, resolved: Config) -> bool:
        """Whether a run with these resolved settings fits into memory."""
        text, sharing = self.text, self.machine.sharing
        needed = memory.peak_bytes(resolved, text.vocab_size, text.countable, sharing)
        return not self.most_bytes or needed <= self.most_bytes

    def ways(self) -> list[str]:
        """The values of `compile` to try: C kernels beat PyTorch on a CPU without AMX."""
        given = self.config.train.compile
        spread = machines.obstacle_of_spreading(self.config)
        if given != "auto" or not self.config.model.spec.c_kernels or spread:
            return ["off" if given == "auto" else given]
        device, precision = self.machine.device.value, self.machine.precision.value
        alone = machines.obstacle_to_compiling(device) or device == "mps"
        by_torch = ["off"] if alone else ["off", "on"]
        if machines.obstacle_to_c(self.shapes()[0], device, precision):
            return by_torch
        return ["c", *by_torch] if machines.multiplies_in_tiles(precision) else ["c"]
