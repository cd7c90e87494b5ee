"""A pace: training ends when its time does, whatever its steps take."""

import time

import pytest

from hornbook.training.pace import Pace, Replay, replanned


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
