"""The diagnosis: each verdict from a curve that deserves it, each with its figures."""

from typing import Any

import numpy as np
import pytest

import hornbook as hb
from hornbook.eval.baselines import Baselines
from hornbook.eval.diagnosis import Diagnosis, Point, curve, diagnose, evaluations_since_best

CONFIG = hb.preset("quick")


def read(*validation: float, train: list[float] | None = None, **more: Any) -> Diagnosis:
    train = train or list(validation)
    points = [Point(100 * (i + 1), train[i], loss) for i, loss in enumerate(validation)]
    arguments = {"tokens_per_char": 1.0, "passes": 3.0} | more
    return diagnose(points, CONFIG, **arguments)


def counted(ngram: float, bigram: float = 3.0, unigram: float = 3.4, order: int = 6) -> Baselines:
    return Baselines(3.58, unigram, bigram, ngram, order, 1000, np.zeros(0))


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


@pytest.mark.parametrize(
    ("baselines", "first", "last"),
    [
        (counted(1.75), "Worse than 6-gram counts: their loss is lower by 0.250 nats/char.", ""),
        (counted(2.1, bigram=1.9), "Worse than bigram counts: their loss is lower by 0.100", ""),
        (counted(5.0, 5.0, 5.0), "", "the uniform guess, by 1.580 nats/char."),
        (counted(2.125), "", "simpler predictors, 6-gram counts, by 0.125 nats/char."),
        (counted(2.0001), "", "as good as 6-gram counts: the losses differ by less than 0.001"),
        (counted(1.9999), "", "as good as 6-gram counts: the losses differ by less than 0.001"),
        (counted(2.2, 2.1, order=2), "", "simpler predictors, bigram counts, by 0.100 nats/char."),
    ],
)
def test_the_model_is_compared_with_the_best_row_of_the_table(
    baselines: Baselines, first: str, last: str
) -> None:
    found = read(2.5, 2.0, loss=2.0, baselines=baselines)
    assert found.sentences[0].startswith(first)
    assert last in found.sentences[-1]
    assert found.ahead_of_baselines == min(baselines.rows().values()) - 2.0
    assert found.ahead_of_counts == baselines.ngram - 2.0
    assert ("Worse" in " ".join(found.sentences)) == bool(first)


def test_a_model_worse_than_chance_says_so_first() -> None:
    found = read(6.0, 5.6, loss=5.58, baselines=counted(5.0, 4.0, 4.0))
    assert found.sentences[0] == (
        "Worse than the uniform guess: its loss is lower by 2.000 nats/char."
    )
    # Frequencies do worse than chance as well: a text of another kind, not a memorised one.
    assert found.verdict != "overfit"


def test_text_of_another_kind_is_not_called_memorised() -> None:
    rising = {"train": [2.4, 1.8, 1.5, 1.2], "passes": 0.9}
    found = read(6.0, 6.1, 6.3, 6.5, loss=6.0, baselines=counted(6.4, 5.0, 9.0), **rising)
    assert (found.verdict, found.since_step) == ("overfit", 100)
    assert "is of another kind" in found.sentences[1]
    assert not any("memorised this text" in sentence for sentence in found.sentences)
    assert found.advice[0].startswith("text of both kinds in the training part")
    usual = read(2.0, 2.1, 2.3, 2.5, loss=2.0, baselines=counted(2.4), **rising)
    assert any("memorised this text" in sentence for sentence in usual.sentences)


def test_a_gap_to_copies_says_nothing_of_new_text() -> None:
    for validation in (1.9, 3.0):
        found = read(2.5, validation, train=[2.4, 1.9], copied=True)
        assert "with this much copied, that says little of new text" in found.sentences[1]
        assert "it predicts new text" not in found.sentences[1]


def test_one_evaluation_is_enough_for_a_gap_like_that() -> None:
    found = read(5.12, train=[0.18], loss=5.12, passes=210, baselines=counted(2.4))
    assert (found.verdict, found.since_step, found.best_step) == ("overfit", None, 100)
    assert found.gap == pytest.approx(4.94)
    assert "Worse than 6-gram counts" in found.sentences[0]
    assert "training loss is 0.180 nats/char and the validation loss 5.120" in found.sentences[1]
    assert "worse than the uniform guess (3.580)" in found.sentences[1]
    assert found.advice[0].startswith("more text")
    assert read(2.9, train=[2.1]).verdict == "overfit"
    assert read(2.9, train=[2.1], passes=0.5).verdict == "too short to tell"
    assert read(2.9, train=[2.6]).verdict == "too short to tell"


def test_a_falling_curve_that_is_worse_than_chance_is_overfit() -> None:
    found = read(5.5, 5.12, train=[0.3, 0.18], loss=5.12, baselines=counted(2.4))
    assert found.verdict == "overfit"


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


def test_a_model_without_steps_is_counted() -> None:
    points = [Point(1, 0.8, 1.5)]
    config = hb.preset("ngram")
    found = diagnose(
        points, config, tokens_per_char=1.0, passes=3.0, loss=1.5, baselines=counted(1.5)
    )
    assert found.verdict == "counted"
    assert "no training curve" in found.sentences[0]
    assert "as good as 6-gram counts" in found.sentences[1]
    worse = diagnose(
        points, config, tokens_per_char=1.0, passes=3.0, loss=1.9, baselines=counted(1.5)
    )
    assert worse.sentences[0].startswith("Worse than 6-gram counts")
    assert found.advice == ["a network beside the n-grams: --minutes 2 instead of --model ngram"]


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
