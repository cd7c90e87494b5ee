"""Minutes to settings: what a plan must hold whatever the machine, and how a pace is kept."""

import dataclasses
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbook as hb
import hornbook.models
from hornbook.config import Config
from hornbook.errors import ConfigError
from hornbook.eval.loss import MOST_EVALUATED
from hornbook.plan import budget, machine
from hornbook.plan.budget import Pace, StepTime, Text, parameter_count, plan, predicted_loss
from hornbook.plan.memory import Countable

SHAKESPEARE = Text(train_tokens=1_003_854, validation_tokens=111_540, vocab_size=65)


def on_a_machine(flops: float, update_flops: float | None = None):
    """A timer for a machine that does so many operations a second, and never has to run."""

    def timer(config: Config, vocab_size: int, _: machine.Machine) -> StepTime:
        size = parameter_count(config, vocab_size)
        return StepTime(6 * size / flops, 0.0, 20 * size / (update_flops or flops))

    return timer


def planned(seconds: float, *, flops: float = 1e11, text: Text = SHAKESPEARE, **settings) -> Config:
    config = Config().override(**settings)
    chosen = machine.choose(config)
    return plan(
        config, text, chosen, seconds, asked=set(settings), timer=on_a_machine(flops)
    ).config


def tokens(config: Config) -> int:
    return config.train.steps * config.train.batch_size * config.model.block_size


@settings(deadline=None, max_examples=60)
@given(
    minutes=st.floats(0.5, 1440),
    flops=st.floats(1e9, 1e15),
    train_tokens=st.integers(3_000, 2**36),
    vocab_size=st.integers(2, 50_000),
)
def test_every_machine_and_text_gets_a_plan_that_fits(
    minutes: float, flops: float, train_tokens: int, vocab_size: int
) -> None:
    text = Text(train_tokens, train_tokens // 9, vocab_size)
    if budget.concluding_seconds(Config(), text) + budget.SHORTEST_SECONDS > 60 * minutes * 0.9:
        return
    try:
        config = planned(60 * minutes, flops=flops, text=text)
    except ConfigError:
        # Not one step of the smallest shape fits beside its evaluation.
        smallest = parameter_count(Config().override(n_layer=2, n_head=2, n_embd=64), vocab_size)
        evaluated = min(text.validation_tokens, MOST_EVALUATED)
        assert (evaluated + 128) * 6 * smallest / flops > 20 * minutes
        return
    size = parameter_count(config, vocab_size)
    assert tokens(config) * 6 * size / flops < 60 * minutes * 1.05 / budget.COMPILED_SHARE
    assert config.model.block_size < train_tokens


def test_more_time_never_means_a_smaller_model_or_less_work() -> None:
    plans = [planned(seconds) for seconds in (20, 60, 300, 1800, 36_000)]
    sizes = [parameter_count(config, 65) for config in plans]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    work = [size * tokens(config) for size, config in zip(sizes, plans, strict=True)]
    assert work == sorted(work)


def test_a_faster_machine_gets_a_larger_model() -> None:
    slow, fast = planned(120, flops=2e10), planned(120, flops=1e13)
    assert parameter_count(slow, 65) < parameter_count(fast, 65)


def test_a_small_text_read_often_gets_dropout_and_a_large_one_none() -> None:
    small = Text(train_tokens=100_000, validation_tokens=10_000, vocab_size=65)
    large = Text(train_tokens=10**9, validation_tokens=10**6, vocab_size=65)
    assert planned(600, text=small).model.dropout > 0
    assert planned(600, text=large).model.dropout == 0
    assert planned(600, text=small).optimizer.weight_decay == 0.1
    assert planned(600, text=large).optimizer.weight_decay == Config().optimizer.weight_decay
    assert planned(600, text=small, weight_decay=0.2).optimizer.weight_decay == 0.2


def test_what_was_asked_for_stays() -> None:
    config = planned(120, n_layer=3, n_head=2, n_embd=48, batch_size=5, dropout=0.3, block_size=40)
    assert (config.model.n_layer, config.model.n_head, config.model.n_embd) == (3, 2, 48)
    assert (config.train.batch_size, config.model.dropout, config.model.block_size) == (5, 0.3, 40)


def test_another_rung_keeps_its_shape_and_gets_its_steps() -> None:
    config = hb.preset("bigram")
    found = plan(config, SHAKESPEARE, machine.choose(config), 60, timer=on_a_machine(1e10)).config
    assert found.model == config.model
    assert found.train.steps != config.train.steps


def test_too_little_time_is_refused_with_what_is_needed() -> None:
    with pytest.raises(ConfigError, match="give more --minutes"):
        planned(5)


@given(seconds=st.floats(5, 600), train_tokens=st.integers(10_000, 10**10))
def test_no_more_is_counted_than_leaves_most_of_the_time_to_training(
    seconds: float, train_tokens: int
) -> None:
    text = Text(train_tokens, min(train_tokens // 9, 100_000), 65)
    chosen = machine.choose(Config().override(with_counts=True))
    config = Config().override(with_counts=True, compile=chosen.compile.value)
    found = budget.count_within(config, text, seconds)
    counted = budget.counted_tokens(found, text)
    spent = budget.counting_before(found, text)
    if found != config:
        assert counted < budget.counted_tokens(config, text)
        assert spent < budget.COUNTING_SHARE * seconds
    elif counted > 2 * budget.FEWEST_COUNTED and spent > budget.COUNTING_SHARE * seconds:
        # Too little time for any counts, which the plan then says.
        with pytest.raises(ConfigError, match="too few"):
            plan(config, text, chosen, seconds, timer=on_a_machine(1e11))


def test_counting_takes_no_more_memory_than_it_may() -> None:
    config = Config().override(with_counts=True)
    rich = Countable(5_000_000, (2e6,) * 10)
    text = Text(10**8, 100_000, 65, rich)
    found = budget.count_within(config, text, 3600)
    share = found.model.counted_tokens / rich.tokens
    assert share * rich.bytes(config.model)[0] == pytest.approx(budget.COUNTING_BYTES, rel=0.01)


def test_how_much_is_counted_can_be_asked_for() -> None:
    settings = {"with_counts": True, "counted_tokens": 20_000}
    assert planned(60, **settings).model.counted_tokens == 20_000
    assert planned(60, with_counts=True).model.counted_tokens == Config().model.counted_tokens


def test_counts_join_where_nothing_says_otherwise() -> None:
    cpu = machine.choose(Config().override(device="cpu"))
    gpu = dataclasses.replace(cpu, device=machine.Choice("cuda", "as if"))
    both = Config().override(with_counts=True)
    assert budget.may_join(Config(), cpu, ())
    assert not budget.may_join(Config(), cpu, ("with_counts",))
    assert not budget.may_join(both, cpu, ())
    assert not budget.may_join(hb.preset("bigram"), cpu, ())
    assert not budget.may_join(Config(), gpu, ())


def test_compiling_quickens_the_reading_and_not_the_update() -> None:
    step = StepTime(token_seconds=0.001, reading_seconds=0.1, update_seconds=0.2)
    assert step.of(100) == pytest.approx(0.4)
    assert step.of(100, compiled=True) == pytest.approx(0.2 + 0.2 * budget.COMPILED_SHARE)
    assert step.grown(2.0).of(100) == pytest.approx(2 * step.of(100))


def test_the_timer_times_real_steps() -> None:
    config = hb.preset("quick").override(compile="off")
    found = budget.time_step(config, 65, machine.choose(config))
    assert 0 < found.token_seconds < 0.1
    assert 0 <= found.reading_seconds < 10
    assert 0 < found.update_seconds < 10


@given(
    size=st.integers(10**4, 10**9),
    tokens=st.integers(10**4, 10**10),
    steps=st.integers(1, 10**6),
    unique=st.integers(10**4, 10**10),
)
def test_more_is_never_predicted_to_hurt_but_a_size_that_could_hold_the_text(
    size: int, tokens: int, steps: int, unique: int
) -> None:
    loss = predicted_loss(size, tokens, steps, unique)
    read_once = predicted_loss(size, tokens, steps, max(tokens, unique))
    assert predicted_loss(2 * size, tokens, steps, max(tokens, unique)) <= read_once
    for more in (
        predicted_loss(size, 2 * tokens, steps, unique),
        predicted_loss(size, tokens, 2 * steps, unique),
        predicted_loss(size, tokens, steps, 2 * unique),
    ):
        assert more <= loss + 1e-9


def test_a_slow_machine_gets_fewer_steps_and_a_quick_one_more() -> None:
    for step_seconds, expected in ((0.1, 100), (0.2, 50), (0.05, 200)):
        pace = Pace(time.monotonic() + 10)
        for _ in range(16):
            pace.took(step_seconds)
        assert pace.steps(step=16, total=120, eval_interval=10) == pytest.approx(
            16 + expected, rel=0.02
        )


@pytest.mark.parametrize("total", [20, 100, 5000])
@pytest.mark.parametrize("slower", [1, 4])
def test_training_ends_with_its_time_whatever_was_planned(total: int, slower: int) -> None:
    """Steps of a hundredth of a second that become slower half way, on a clock that is moved."""
    now = 0.0
    pace = Pace(10.0, lambda: now)
    step = 0
    while step < total:
        seconds = 0.01 * (slower if now > 5 else 1)
        now += seconds
        step += 1
        pace.took(seconds)
        total = pace.steps(step, total, eval_interval=50)
    assert now == pytest.approx(10, rel=0.02)


def test_when_the_time_is_up_no_step_is_left() -> None:
    pace = Pace(time.monotonic() - 1)
    for _ in range(20):
        pace.took(0.1)
    assert pace.steps(step=20, total=120, eval_interval=10) == 20


@pytest.mark.parametrize("rung", ["laptop", "quick", "head", "bigram"])
def test_parameters_are_counted_as_the_model_counts_them(rung: str) -> None:
    config = hb.preset(rung)
    assert parameter_count(config, 65) == hb.models.build(config.model, 65).parameter_count
