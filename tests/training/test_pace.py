"""A pace: training ends when its time does, whatever its steps take."""

import time

import pytest

from hornbook.training.pace import Pace


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
