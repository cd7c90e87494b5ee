"""The ladder: one budget for all, nothing trained twice, and honest about noise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hornbook as hb
from hornbook.cli import run as hornbook_command
from hornbook.eval.loss import losses
from hornbook.learn import ladder, ladder_figures

TEXT = "to be, or not to be: that is the question. whether 'tis nobler in the mind\n" * 20
THREE = ["bigram", "average", "head"]


@pytest.fixture
def text_path(text_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(text_path.parent)
    return text_path


def climbed(plan: ladder.Plan) -> list[tuple[str, int | None]]:
    """Train the plan; the run folder's name and step of everything it went through."""
    return [
        (each.climb.folder.path.name, each.metrics and each.metrics.step)
        for each in ladder.climb(plan)
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return hb.load(run, which="last").model.state_dict()


def test_every_rung_gets_the_same_text_steps_and_tokens(text_path: Path) -> None:
    plan = ladder.plan(str(text_path), steps=7)
    assert plan.rungs == [name for name in ladder.ideas() if name != "lecture"]
    seen = {
        (
            climb.config.data.corpus,
            climb.config.train.steps,
            climb.config.train.batch_size * climb.config.model.block_size,
        )
        for climb in plan.climbs
        if climb.rung != "ngram"  # counted in one step
    }
    assert seen == {(str(text_path), 7, 256)}
    quick = ladder.plan(str(text_path), quick=True)
    for each, steps in ((quick, 1000), (ladder.plan(str(text_path)), 5000)):
        by_rung = {climb.rung: climb.config.train.steps for climb in each.climbs}
        assert by_rung.pop("ngram") == 1
        assert set(by_rung.values()) == {steps}
    budgets = [plan, quick, ladder.plan(str(text_path)), ladder.plan(str(text_path), steps=8)]
    assert len({each.folder for each in budgets}) == 4


def test_the_top_rung_is_as_large_as_the_one_below_it_and_trained_its_own_way() -> None:
    gpt, layernorm = ladder.settings("gpt"), ladder.settings("layernorm")
    assert gpt.optimizer == hb.preset("laptop").optimizer
    shape = ("block_size", "n_layer", "n_head", "n_embd", "dropout")
    assert all(getattr(gpt.model, each) == getattr(layernorm.model, each) for each in shape)
    assert gpt.model.model == "gpt"


def test_the_large_rung_takes_part_when_named_and_rungs_keep_their_order(text_path: Path) -> None:
    plan = ladder.plan(str(text_path), rungs=["lecture", "bigram"], steps=1)
    assert plan.rungs == ["bigram", "lecture"]


def test_counting_takes_part_as_a_rung_that_none_stands_on(text_path: Path) -> None:
    plan = ladder.plan(str(text_path), rungs=["bigram", "ngram", "average"], steps=3)
    assert climbed(plan) == [
        *[("bigram-1337", step) for step in (1, 2, 3)],
        ("ngram-1337", 1),
        *[("average-1337", step) for step in (1, 2, 3)],
    ]
    bigram, ngram, average = ladder_figures.measure(plan).rungs
    assert ngram.parameters == 0
    assert ngram.loss < bigram.loss - 1
    assert ngram.stands_on == average.stands_on == "bigram"
    alone = ladder.plan(str(text_path), rungs=["ngram"], minutes=0.001)
    assert [climb.config.train.steps for climb in alone.climbs] == [1]


def test_a_finished_ladder_is_not_climbed_again(text_path: Path) -> None:
    plan = ladder.plan(str(text_path), rungs=THREE, steps=3)
    assert climbed(plan) == [(f"{name}-1337", step) for name in THREE for step in (1, 2, 3)]
    before = weights(plan.folder / "head-1337")
    again = ladder.plan(str(text_path), rungs=THREE, steps=3)
    assert climbed(again) == [(f"{name}-1337", None) for name in THREE]
    after = weights(plan.folder / "head-1337")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_stopped_ladder_goes_on_where_it_was_to_the_same_weights(text_path: Path) -> None:
    whole = ladder.plan(str(text_path), rungs=THREE, steps=4, out="whole")
    climbed(whole)
    stopped = ladder.plan(str(text_path), rungs=THREE, steps=4, out="stopped")
    steps = ladder.climb(stopped)
    for each in steps:
        if each.climb.rung == "average" and each.metrics and each.metrics.step == 3:
            steps.close()
    assert climbed(stopped) == [
        ("bigram-1337", None),
        ("average-1337", 4),
        *(("head-1337", step) for step in (1, 2, 3, 4)),
    ]
    for name in THREE:
        one, other = weights(Path(f"whole/{name}-1337")), weights(Path(f"stopped/{name}-1337"))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_changed_settings_or_a_changed_text_are_trained_anew(text_path: Path) -> None:
    climbed(ladder.plan(str(text_path), rungs=THREE, steps=2, out="tower"))
    changed = ladder.plan(str(text_path), rungs=THREE, steps=3, out="tower")
    assert climbed(changed) == [(f"{name}-1337", step) for name in THREE for step in (1, 2, 3)]
    text_path.write_text(TEXT[:-100] + "the rest is silence. " * 5, encoding="utf-8")
    anew = ladder.plan(str(text_path), rungs=["bigram"], steps=3, out="tower")
    assert climbed(anew) == [("bigram-1337", step) for step in (1, 2, 3)]


def test_a_new_rung_or_seed_leaves_the_others_alone(text_path: Path) -> None:
    climbed(ladder.plan(str(text_path), rungs=["bigram"], steps=2))
    more = ladder.plan(str(text_path), rungs=["bigram", "average"], steps=2, seeds=2)
    assert climbed(more) == [
        ("bigram-1337", None),
        ("average-1337", 1),
        ("average-1337", 2),
        ("bigram-1338", 1),
        ("bigram-1338", 2),
        ("average-1338", 1),
        ("average-1338", 2),
    ]


def test_equal_time_keeps_the_steps_it_began_with(text_path: Path) -> None:
    plan = ladder.plan(str(text_path), rungs=["bigram", "residual"], minutes=0.001)
    steps = [climb.config.train.steps for climb in plan.climbs]
    assert min(steps) >= 1
    kept = json.loads((plan.folder / "plan.json").read_text())
    assert kept["steps"] == dict(zip(["bigram", "residual"], steps, strict=True))
    kept["steps"]["bigram"] = 12_345
    (plan.folder / "plan.json").write_text(json.dumps(kept))
    again = ladder.plan(str(text_path), rungs=["bigram", "residual"], minutes=0.001)
    assert [climb.config.train.steps for climb in again.climbs] == [12_345, steps[1]]


def test_in_equal_time_each_rung_ends_when_its_time_does(text_path: Path) -> None:
    """Whatever the number of steps it was planned with, and however often it was stopped."""
    wanted = {"rungs": ["bigram", "gpt"], "minutes": 0.01}
    plan = ladder.plan(str(text_path), **wanted)
    kept = json.loads((plan.folder / "plan.json").read_text())
    kept["steps"] = {"bigram": 1_000_000, "gpt": 20}
    (plan.folder / "plan.json").write_text(json.dumps(kept))
    plan = ladder.plan(str(text_path), **wanted)
    steps = ladder.climb(plan)
    for each in steps:
        if each.climb.rung == "gpt" and each.metrics and each.metrics.step == 5:
            steps.close()
    climbed(ladder.plan(str(text_path), **wanted))
    bigram, gpt = (list(climb.folder.metrics_rows()) for climb in plan.climbs)
    assert len(bigram) < 100_000
    assert len(gpt) > 5
    assert [row["step"] for row in gpt] == list(range(1, len(gpt) + 1))
    # The schedule runs out with the time.
    assert gpt[-1]["learning_rate_scale"] < gpt[len(gpt) // 2]["learning_rate_scale"]


def test_seeds_that_took_unlike_numbers_of_steps_have_one_curve(text_path: Path) -> None:
    plan = ladder.plan(str(text_path), rungs=["bigram"], steps=4, seeds=2)
    climbed(plan)
    shorter = plan.climbs[1].folder
    rows = list(shorter.metrics_rows())
    shorter.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    (bigram,) = ladder_figures.measure(plan).rungs
    assert bigram.curve.steps == [1, 2, round((4 + 3) / 2)]
    last = [list(climb.folder.metrics_rows())[-1]["val_loss"] for climb in plan.climbs]
    assert bigram.curve.loss[-1] == pytest.approx(np.mean(last))


def test_every_rung_has_its_report_card(text_path: Path) -> None:
    plan = ladder.plan(str(text_path), rungs=["bigram", "ngram"], steps=2)
    climbed(plan)
    for climb in plan.climbs:
        card = json.loads((climb.folder.path / "report.json").read_text())
        assert card["model"] == climb.rung
        assert {mark["name"] for mark in card["scale"]} >= {"this model", "xz", "brotli"}
        assert (climb.folder.path / "report.html").is_file()


def test_a_ladder_in_figures_and_a_picture(text_path: Path) -> None:
    plan = ladder.plan(str(text_path), rungs=["bigram", "average", "layernorm", "gpt"], steps=2)
    climbed(plan)
    found = ladder_figures.measure(plan)
    bigram, average, layernorm, gpt = found.rungs
    assert [rung.tokens for rung in found.rungs] == [2 * 32 * 8] * 4
    assert average.curve.steps == [1, 2]
    for rung in found.rungs:
        exact = hb.load(plan.folder / f"{rung.name}-1337").evaluate()
        assert rung.loss == pytest.approx(exact.nats_per_char, abs=1e-6)
        assert rung.spread is None
    assert bigram.worth is None
    assert average.worth == pytest.approx(bigram.loss - average.loss)
    assert gpt.stands_on == layernorm.name
    assert layernorm.stands_on == average.name
    assert json.loads((plan.folder / "ladder.json").read_text()) == json.loads(
        json.dumps(found.as_dict())
    )
    assert (plan.folder / "ladder.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (plan.folder / "ladder.svg").read_text()


def test_seeds_give_error_bars(text_path: Path) -> None:
    plan = ladder.plan(str(text_path), rungs=["bigram", "average"], steps=2, seeds=3)
    climbed(plan)
    for rung in ladder_figures.measure(plan).rungs:
        assert len(set(rung.loss_by_seed)) == 3
        assert rung.loss == pytest.approx(np.mean(rung.loss_by_seed))
        assert rung.spread == pytest.approx(2 * np.std(rung.loss_by_seed, ddof=1) / 3**0.5)


def test_a_step_down_is_held_against_its_noise() -> None:
    random = np.random.default_rng(0)
    hard = random.gamma(2, 1, 10_000)  # what both rungs find hard: pairing takes it out
    one, same, better = (hard + random.normal(0, 0.1, 10_000) - gain for gain in (0, 0, 0.02))
    worth, noise = ladder_figures.step_down([one], [same])
    assert abs(worth) < 2 * noise
    # Two rungs that differ by noise of 0.1 * sqrt(2) a character.
    assert noise == pytest.approx(2 * 0.1 * 2**0.5 / 100, rel=0.3)
    worth, noise = ladder_figures.step_down([one], [better])
    assert worth == pytest.approx(0.02, abs=noise)
    assert worth > noise
    # Trainings that differ by more than the step is worth drown it.
    worth, noise = ladder_figures.step_down([one - 0.1, one + 0.1], [better - 0.1, better + 0.1])
    assert worth < noise


def test_losses_come_by_character_in_one_order_whatever_the_block() -> None:
    table, tokens = hb.BigramLanguageModel(5), np.random.default_rng(0).integers(0, 5, 100)
    one, other = (losses(table, tokens, block_size=block_size) for block_size in (8, 64))
    assert len(one) == 99
    np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rungs", "bigram,tower"], "--rungs tower"),
        (["--steps", "5", "--quick"], "give one of them"),
        (["--minutes", "1", "--steps", "5"], "give one of them"),
        (["--seeds", "0"], "--seeds 0"),
        (["--minutes", "-1"], "--minutes -1"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], said: str, text_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hornbook_command(["ladder", str(text_path), *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_command_ends_in_a_table_or_one_json_object(
    text_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ladder", str(text_path), "--rungs", "bigram,head", "--steps", "4"]
    assert hornbook_command(arguments) == 0
    out = capsys.readouterr().out
    assert "a table of logits" in out
    assert "one attention head" in out
    assert hornbook_command([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [rung["name"] for rung in found["rungs"]] == ["bigram", "head"]
    assert found["rungs"][1]["stands_on"] == "bigram"


def test_a_text_on_standard_input_is_read_once_for_all_rungs(
    text_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with text_path.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        plan = ladder.plan("-", rungs=["bigram", "average"], steps=1, out="tower")
    climbed(plan)
    kept = Path("tower/input.txt").resolve()
    assert kept.read_text() == TEXT
    assert {climb.config.data.corpus for climb in plan.climbs} == {str(kept)}
