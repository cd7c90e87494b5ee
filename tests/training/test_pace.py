"""A pace: training ends when its time does, whatever its steps take."""

import time
from pathlib import Path

import pytest

import hornbook as hb
from hornbook.plan import planner
from hornbook.plan.timing import StepTime, time_step
from hornbook.runs.result import revisit
from hornbook.runs.verify import verify
from hornbook.training.conclude import conclude
from hornbook.training.loop import steps
from hornbook.training.pace import Pace, Replay, replanned
from hornbook.training.trainer import PlannedAnewWarning, begin


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


def test_a_changing_plan_is_recorded_and_replayed() -> None:
    totals = [420, 420, 512, 512, 5]  # in force at steps 1 to 5, after which the time was up
    rows = [{"step": i + 1, "steps": total} for i, total in enumerate(totals)]
    steps, changes = replanned(rows, 420)
    assert (steps, changes) == (5, "0:420,2:512,4:5")
    replay, total = Replay(changes), 5
    seen = []
    for step in range(5):
        total = replay.steps(step, total, 60)
        seen.append(total)
    assert seen == totals


def test_a_plan_that_never_changes_is_the_number_of_steps() -> None:
    rows = [{"step": step, "steps": 420} for step in range(1, 301)]  # stopped by patience
    assert replanned(rows, 420) == (420, "")
    assert replanned([{"step": 1}, {"step": 2}], 420) == (420, "")  # of an older version
    assert replanned([], 420) == (420, "")


def test_what_follows_training_takes_longer_on_a_busy_machine() -> None:
    now, waited = 0.0, 0.0
    pace = Pace(30.0, lambda: now, concluding_seconds=4.0, waited=lambda: waited)
    assert pace.planned_seconds == 26
    now = 9.0
    assert pace.left() == pytest.approx(30 - 9 - 4)
    waited = 6.0  # (3 + 9) s for 3 + 3 s of work
    assert pace.left() == pytest.approx(30 - 9 - 8)


@pytest.mark.parametrize(("after", "fits", "anew"), [(8, 40, True), (8, 60, False), (4, 40, False)])
def test_a_plan_is_far_off_when_under_half_of_its_steps_fit(
    after: int, fits: int, anew: bool
) -> None:
    now = 0.0
    pace = Pace(30.0, lambda: now, waited=lambda: 0.0)
    for _ in range(after):
        pace.took(0.1)
    assert pace.far_off(fits, planned=100) == anew
    now = 20.0
    assert not pace.far_off(fits, planned=100)  # too late for another plan


def test_a_plan_far_off_is_made_anew_and_the_result_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan by a timer that finds steps to take no time; the next one measures."""
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text("to be, or not to be: that is the question.\n" * 400, encoding="utf-8")
    free = StepTime(1e-7, 0.0, 0.0)
    monkeypatch.setattr(planner, "time_step", lambda *_: free)
    config = hb.Config().override(corpus=str(text), minutes=0.5, compile="off")
    trainer = begin(config, out=tmp_path / "run")
    first = trainer.plan
    monkeypatch.setattr(planner, "time_step", time_step)
    taken = steps(trainer)
    with pytest.warns(PlannedAnewWarning, match="planned anew after 8 steps"):
        metrics = [next(taken) for _ in range(12)]
    assert [each.step for each in metrics] == [*range(1, 8), *range(1, 6)]
    assert trainer.plan is not first
    recorded = trainer.folder.environment_facts()["parameters"]
    assert trainer.state.model.parameter_count == recorded
    rows = list(trainer.folder.metrics_rows())
    assert [row["step"] for row in rows][:4] == [1, 2, 3, 4]
    trainer.pace, trainer.state.steps = None, 6
    assert len(list(taken)) == 1
    result = conclude(trainer)
    assert "planned anew" in result.steps_why
    figures = result.as_dict()
    assert figures["planned_steps"] == trainer.config.train.steps
    assert revisit(tmp_path / "run").steps_why == result.steps_why
    assert verify(tmp_path / "run").sound
