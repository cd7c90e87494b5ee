"""The diagnosis: each verdict from a curve that deserves it, each with its figures."""

import pytest

import hornbook as hb
from hornbook.eval.diagnosis import Diagnosis, Point, curve, diagnose, evaluations_since_best

CONFIG = hb.preset("quick")


def read(*validation: float, train: list[float] | None = None, **more: float) -> Diagnosis:
    train = train or list(validation)
    points = [Point(100 * (i + 1), train[i], loss) for i, loss in enumerate(validation)]
    arguments = {"tokens_per_char": 1.0, "passes": 3.0} | more
    return diagnose(points, CONFIG, order=6, **arguments)


def test_a_curve_that_falls_to_the_end_is_still_learning() -> None:
    found = read(2.5, 2.2, 2.0, 1.9)
    assert found.verdict == "still learning"
    assert found.fall_in_last_quarter == pytest.approx(0.1)
    assert "from step 300 to the end at step 400" in found.sentences[0]
    assert "0.100 nats/char" in found.sentences[0]
    assert found.advice[0] == "more time: --steps 800"


def test_a_flat_end_is_done() -> None:
    found = read(2.5, 2.0, 1.901, 1.9)
    assert found.verdict == "done"
    assert "-0.001" in found.sentences[0]
    assert any("n_embd=128" in advice for advice in found.advice)


def test_rising_while_training_falls_is_overfit_since_the_best_step() -> None:
    found = read(2.5, 2.0, 2.1, 2.3, train=[2.4, 1.8, 1.5, 1.2])
    assert (found.verdict, found.since_step, found.best_step) == ("overfit", 200, 200)
    assert found.rise_since_best == pytest.approx(0.3)
    assert found.gap == pytest.approx(1.1)
    assert "Overfit since step 200" in found.sentences[0]
    assert any("dropout=0.2 (it was 0)" in advice for advice in found.advice)


def test_rising_together_is_no_overfitting() -> None:
    assert read(2.5, 2.0, 2.1, 2.3, train=[2.4, 1.9, 2.0, 2.2]).verdict != "overfit"


def test_losses_are_told_in_the_characters_unit() -> None:
    found = read(2.5, 2.2, 2.0, 1.9, tokens_per_char=0.5)
    assert found.fall_in_last_quarter == pytest.approx(0.05)


def test_it_says_when_counting_does_better() -> None:
    assert "Counting beats it" in read(2.5, 2.0, ahead_of_counts=-0.25).sentences[-1]
    assert "better by 0.250" in read(2.5, 2.0, ahead_of_counts=-0.25).sentences[-1]
    assert "by 0.125" in read(2.5, 2.0, ahead_of_counts=0.125).sentences[-1]


def test_nothing_is_called_memorised_before_one_epoch() -> None:
    falling = {"train": [2.4, 2.0, 1.8, 1.6]}
    assert "memorised after 3.0 epochs" in read(2.5, 2.2, 2.0, 1.9, **falling).sentences[1]
    assert "Little of it" in read(2.5, 2.2, 2.0, 1.9, passes=0.5, **falling).sentences[1]


@pytest.mark.parametrize("losses", [(), (2.5,)])
def test_a_curve_of_less_than_two_evaluations_says_nothing(losses: tuple[float, ...]) -> None:
    found = read(*losses)
    assert found.verdict == "too short to tell"
    assert f"has {len(losses)}." in found.sentences[0]
    assert not found.advice


def test_a_curve_has_the_mean_training_loss_before_each_evaluation() -> None:
    rows = [
        {"step": step, "train_loss": float(step), "val_loss": 9.0 if step % 30 == 0 else None}
        for step in range(1, 61)
    ]
    first, second = curve(rows)
    assert (first.step, second.step) == (30, 60)
    assert first.train == pytest.approx(sum(range(11, 31)) / 20)
    assert second.train == pytest.approx(sum(range(41, 61)) / 20)


def test_evaluations_since_the_best() -> None:
    points = [Point(i, 1.0, loss) for i, loss in enumerate([3.0, 2.0, 2.0, 2.5])]
    assert evaluations_since_best(points) == 2  # an equal is no better
    assert evaluations_since_best(points[:2]) == 0
    assert evaluations_since_best([]) == 0
