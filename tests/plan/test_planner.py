"""Minutes to settings: what a plan must hold whatever the machine."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbook as hb
from hornbook.cli.train import requested
from hornbook.config import Config, Request, preset_names
from hornbook.errors import ConfigError
from hornbook.eval.loss import MOST_EVALUATED
from hornbook.models.registry import meta_model
from hornbook.plan import costs, machine, memory, planner, resolved, timing
from hornbook.plan.costs import Text
from hornbook.plan.law import predicted_loss
from hornbook.plan.memory import Countable
from hornbook.plan.planner import Search, plan
from hornbook.plan.timing import StepTime
from hornbook.text.corpus import read_corpus
from hornbook.text.dataset import prepare

SHAKESPEARE = Text(train_tokens=1_003_854, validation_tokens=111_540, vocab_size=65)


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans as on an idle machine, whatever else runs on this one."""
    monkeypatch.setattr(planner, "slowdown", lambda: 1.0)


def on_a_machine(flops: float, update_flops: float | None = None):
    """A timer for a machine that does so many operations a second, and never has to run."""

    def timer(config: Config, vocab_size: int, _: machine.Machine) -> StepTime:
        size = config.model.parameter_count(vocab_size)
        return StepTime(6 * size / flops, 0.0, 20 * size / (update_flops or flops))

    return timer


def planned(seconds: float, *, flops: float = 1e11, text: Text = SHAKESPEARE, **settings) -> Config:
    request = Request().layer({"flag": settings})
    chosen = machine.choose(request.config)
    return plan(request, text, chosen, seconds, timer=on_a_machine(flops)).config


def tokens(config: Config) -> int:
    return config.train.steps * config.tokens_per_step


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
    if costs.concluding_seconds(Config(), text) + costs.SHORTEST_SECONDS > 60 * minutes * 0.9:
        return
    try:
        config = planned(60 * minutes, flops=flops, text=text, minutes=minutes)
    except ConfigError:
        # Not one step of the smallest shape fits beside its evaluation.
        small = Config().override(n_layer=2, n_head=2, n_embd=64)
        smallest = small.model.parameter_count(vocab_size)
        evaluated = min(text.validation_tokens, MOST_EVALUATED)
        assert (evaluated + 128) * 6 * smallest / flops > 20 * minutes
        return
    size = config.model.parameter_count(vocab_size)
    assert tokens(config) * 6 * size / flops < 60 * minutes * 1.05 / timing.COMPILED_SHARE
    assert config.model.block_size < train_tokens


def test_more_time_never_means_a_smaller_model_or_less_work() -> None:
    plans = [planned(seconds) for seconds in (20, 60, 300, 1800, 36_000)]
    sizes = [config.model.parameter_count(65) for config in plans]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    work = [size * tokens(config) for size, config in zip(sizes, plans, strict=True)]
    assert work == sorted(work)


def test_a_faster_machine_gets_a_larger_model() -> None:
    slow, fast = planned(120, flops=2e10), planned(120, flops=1e13)
    assert slow.model.parameter_count(65) < fast.model.parameter_count(65)


def test_a_small_text_read_often_gets_dropout_and_a_large_one_none() -> None:
    small = Text(train_tokens=100_000, validation_tokens=10_000, vocab_size=65)
    large = Text(train_tokens=10**9, validation_tokens=10**6, vocab_size=65)
    assert planned(600, text=small).model.dropout > 0
    assert planned(600, text=large).model.dropout == 0
    assert planned(600, text=small).optimizer.weight_decay == 0.1
    assert planned(600, text=large).optimizer.weight_decay == Config().optimizer.weight_decay
    assert planned(600, text=small, weight_decay=0.2).optimizer.weight_decay == 0.2


def test_what_was_requested_stays() -> None:
    config = planned(120, n_layer=3, n_head=2, n_embd=48, batch_size=5, dropout=0.3, block_size=40)
    assert (config.model.n_layer, config.model.n_head, config.model.n_embd) == (3, 2, 48)
    assert (config.train.batch_size, config.model.dropout, config.model.block_size) == (5, 0.3, 40)


def test_another_rung_keeps_its_shape_and_gets_its_steps() -> None:
    config = hb.preset("bigram")
    chosen = machine.choose(config)
    timer = on_a_machine(1e10)
    found = plan(Request(config), SHAKESPEARE, chosen, 60, timer=timer).config
    assert found.model == config.model
    assert found.train.steps != config.train.steps


def test_too_little_time_is_refused_with_what_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"give --minutes [\d.]+ or more"):
        planned(5)


@given(seconds=st.floats(5, 600), train_tokens=st.integers(10_000, 10**10))
def test_no_more_is_counted_than_leaves_most_of_the_time_to_training(
    seconds: float, train_tokens: int
) -> None:
    text = Text(train_tokens, min(train_tokens // 9, 100_000), 65)
    chosen = machine.choose(Config().override(with_counts=True))
    config = Config().override(with_counts=True, compile=chosen.compile.value)
    found = costs.count_within(config, text, seconds)
    counted = costs.counted_tokens(found, text)
    spent = costs.counting_seconds(found, text)
    if found != config:
        assert counted < costs.counted_tokens(config, text)
        assert spent < costs.COUNTING_SHARE * seconds
    elif counted > 2 * costs.FEWEST_COUNTED and spent > costs.COUNTING_SHARE * seconds:
        # Too little time for any counts, which the plan then says.
        with pytest.raises(ConfigError, match="s are needed"):
            plan(Request(config), text, chosen, seconds, timer=on_a_machine(1e11))


@pytest.mark.parametrize(("seconds", "pays"), [(6, False), (12, True), (15, True), (600, True)])
def test_a_mixer_leaves_time_to_count_half_of_the_text(seconds: float, pays: bool) -> None:
    config = Config().override(with_counts=True, compile="c", minutes=seconds / 60)
    assert costs.mixer_pays(config, SHAKESPEARE, seconds) == pays
    mixed = config.override(with_mixer=True)
    counted = costs.most_counted(mixed, SHAKESPEARE, seconds)
    assert pays == (2 * counted >= costs.most_counted(config, SHAKESPEARE, seconds) > 0)


def test_a_large_text_has_a_mixer_though_n_grams_alone_would_count_more() -> None:
    text = Text(train_tokens=89_778_920, validation_tokens=9_975_436, vocab_size=5_693)
    config = Config().override(with_counts=True, compile="c", minutes=2.0)
    mixed = costs.most_counted(config.override(with_mixer=True), text, 105)
    assert costs.ENOUGH_MIXED < mixed < costs.most_counted(config, text, 105) / 2
    assert costs.mixer_pays(config, text, 105)
    assert not costs.mixer_pays(config, text, 30)


def test_counting_takes_no_more_memory_than_it_may() -> None:
    config = Config().override(with_counts=True)
    rich = Countable(5_000_000, (2e6,) * 10)
    text = Text(10**8, 100_000, 65, rich)
    found = costs.count_within(config, text, 3600)
    share = found.model.counted_tokens / rich.tokens
    assert share * rich.bytes(config.model)[0] == pytest.approx(costs.COUNTING_BYTES, rel=0.01)


def test_how_much_is_counted_can_be_requested() -> None:
    settings = {"with_counts": True, "counted_tokens": 20_000}
    assert planned(60, **settings).model.counted_tokens == 20_000
    assert planned(60, with_counts=True).model.counted_tokens == Config().model.counted_tokens


def test_counts_join_where_nothing_says_otherwise() -> None:
    cpu = machine.choose(Config().override(device="cpu"))
    gpu = dataclasses.replace(cpu, device=machine.Choice("cuda", "as if"))
    plain = Request()
    assert resolved.may_join(plain, cpu)
    assert not resolved.may_join(plain, gpu)
    assert not resolved.may_join(plain.layer({"flag": {"with_counts": False}}), cpu)
    assert not resolved.may_join(plain.layer({"flag": {"with_counts": True}}), cpu)
    assert not resolved.may_join(Request(hb.preset("bigram")), cpu)


def test_compiling_quickens_the_reading_and_not_the_update() -> None:
    step = StepTime(token_seconds=0.001, reading_seconds=0.1, update_seconds=0.2)
    assert step.of(100) == pytest.approx(0.4)
    assert step.of(100, compiled=True) == pytest.approx(0.2 + 0.2 * timing.COMPILED_SHARE)
    assert step.grown(2.0).of(100) == pytest.approx(2 * step.of(100))


def test_the_timer_times_real_steps() -> None:
    config = hb.preset("quick").override(compile="off")
    found = timing.time_step(config, 65, machine.choose(config))
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


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("vocab_size", [65, 200])
def test_parameters_are_counted_as_the_model_counts_them(name: str, vocab_size: int) -> None:
    config = hb.preset(name).model
    if config.spec.counted:
        assert config.parameter_count(vocab_size) == 0
        return
    model = meta_model(config, vocab_size)
    assert config.parameter_count(vocab_size) == model.parameter_count


TEXT = "to be, or not to be: that is the question. whether 'tis nobler in the mind\n" * 200


def test_a_file_that_names_a_default_value_is_kept_by_a_plan(tmp_path: Path) -> None:
    """The four layers of the default stay four, though another shape would be better."""
    path = tmp_path / "mine.toml"
    path.write_text("n_layer = 4\n", encoding="utf-8")
    request = requested(None, None, path, {}, {"minutes": 2})
    assert request.requested("n_layer")
    chosen = machine.choose(request.config)

    def made(of: Request) -> Config:
        return plan(of, SHAKESPEARE, chosen, 120, timer=on_a_machine(1e10)).config

    assert made(request).model.n_layer == Config().model.n_layer
    assert made(requested(None, None, None, {}, {"minutes": 2})).model.n_layer == 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_memory_of_a_candidate_is_that_of_its_resolved_settings(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` once stood for float32, whatever the machine had chosen."""
    seen: set[tuple[str, str, int]] = set()

    def peak(config: Config, vocab_size: int, countable: Countable | None, _: object) -> int:
        seen.add((config.train.precision, config.train.compile, config.train.threads))
        return 0

    monkeypatch.setattr(memory, "peak_bytes", peak)
    chosen = machine.Machine(
        device=machine.Choice("cpu", "as if"),
        precision=machine.Choice(precision, "as if"),
        compile=machine.Choice("off", "as if"),
        threads=3,
    )
    request = Request().layer({"flag": {"compile": "off"}})
    search = Search(request, SHAKESPEARE, chosen, on_a_machine(1e11), 2**30)
    (first, *_) = search.timed(0.0)
    assert list(search.candidates(*first, 60.0))
    assert seen == {(precision, "off", 3)}


def test_a_run_is_resolved_once_and_has_no_auto(
    text_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is chosen before the plan, and what the plan says of `compile` is its reason."""
    config = Config().override(corpus=str(text_path), minutes=0.2)
    corpus = read_corpus(str(text_path))
    dataset = prepare(corpus, config.data)
    chosen = machine.choose(config)
    monkeypatch.setattr("hornbook.plan.planner.time_step", on_a_machine(1e11))
    found = resolved.resolve(Request.of(config), chosen, dataset)
    train = found.config.train
    assert "auto" not in (train.device, train.precision, train.compile)
    assert train.threads > 0
    assert found.plan is not None
    assert (
        found.machine.resolve(config).train.compile
        == train.compile
        == (found.machine.compile.value)
    )
    ngram = Request(hb.preset("ngram").override(steps=9))
    assert resolved.resolve(ngram, machine.choose(ngram.config), dataset).config.train.steps == 1


def test_a_busy_machine_gets_fewer_steps_and_is_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = planned(30, n_layer=2, n_head=2, n_embd=64, batch_size=8)
    monkeypatch.setattr(planner, "slowdown", lambda: 2.0)
    after = planned(30, n_layer=2, n_head=2, n_embd=64, batch_size=8)
    assert after.train.steps < before.train.steps
    monkeypatch.setattr(planner, "slowdown", lambda: 50.0)
    assert planned(30).train.steps > 0
