"""What a run's curve shows: still learning, done, or overfit since a step; and what to try next.

Every verdict and every piece of advice names the figures of the run that it is based on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hornbook.config import Config
from hornbook.eval.baselines import Baselines
from hornbook.eval.tokenization import Trial
from hornbook.language import by_english, joined, msg

Verdict = Literal["still learning", "done", "overfit", "too short to tell", "counted"]

# The mean of this many batches stands for the training loss at an evaluation: a single batch of
# the default model scatters by 0.03 nats, twenty by under 0.01.
TRAIN_BATCHES = 20

# Nats per character. Changes below these are lost in what another seed changes: 0.007 over seeds
# of a full-grown model on tiny Shakespeare.
WORTH_NAMING = 0.01
SMALL_GAP = 0.05
# A gap so wide needs no curve to be called memorised, and one so small is no difference.
MEMORISED_GAP = 0.5
AS_GOOD = 0.0005

COUNTED = msg(
    "Counted: the n-grams were counted once, so there are no steps and no training curve."
)
AFTER_COUNTING = msg("a network beside the n-grams: --minutes 2 instead of --model ngram")


@dataclass(frozen=True)
class Point:
    """An evaluation on the way. Losses in nats per token."""

    step: int
    train: float
    validation: float


def curve(rows: Iterable[dict[str, Any]]) -> list[Point]:
    """The evaluations among the rows of a run's metrics, each with the training loss around it."""
    points: list[Point] = []
    batches: list[float] = []
    for row in rows:
        batches.append(row["train_loss"])
        if row.get("val_loss") is not None:
            recent = batches[-TRAIN_BATCHES:]
            points.append(Point(row["step"], sum(recent) / len(recent), row["val_loss"]))
            batches = []
    return points


def best(points: Sequence[Point]) -> Point:
    """The evaluation with the least validation loss, the first of equals."""
    return min(points, key=lambda point: point.validation)


def evaluations_since_best(points: Sequence[Point]) -> int:
    """How many evaluations in a row were no better than the best before them."""
    return len(points) - 1 - points.index(best(points)) if points else 0


@dataclass(frozen=True)
class Diagnosis:
    """A verdict in a word, the same in sentences with their figures, and what to try next.

    Losses in nats per character; `since_step` is the step after which validation only got worse,
    `ahead_of_counts` how much better the model is than the best n-grams, `ahead_of_baselines` than
    `best_baseline`.
    """

    verdict: Verdict
    since_step: int | None = None
    best_step: int | None = None
    fall_in_last_quarter: float | None = None
    rise_since_best: float | None = None
    gap: float | None = None
    ahead_of_counts: float | None = None
    best_baseline: str | None = None
    ahead_of_baselines: float | None = None
    sentences: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


def diagnose(
    points: Sequence[Point],
    config: Config,
    *,
    tokens_per_char: float,
    passes: float,
    loss: float | None = None,
    baselines: Baselines | None = None,
    copied: bool = False,
    trial: Trial | None = None,
) -> Diagnosis:
    """The verdict on a run's curve, and on its `loss` among the baselines of the same text.

    `passes` is the number of epochs, and `copied` whether much of the validation text stands in the
    training text. Being worse than a baseline is said first. A `trial` of tokenizers in which
    another one was better is advice.
    """
    found = verdict_on(points, config, tokens_per_char, passes, baselines, copied=copied)
    if trial:
        advice = [*found.advice, *other_tokens(config.data.tokenizer, trial)]
        found = replace(found, advice=advice)
    if loss is None or baselines is None:
        return found
    rows = baselines.rows()
    name = min(rows, key=lambda each: rows[each])
    ahead, sentences = rows[name] - loss, list(found.sentences)
    sentences.insert(0 if ahead < -AS_GOOD else len(sentences), against(name, ahead))
    ahead_of_counts = baselines.ngram - loss
    may_join = config.model.spec.joins_counts and not config.model.with_counts
    counts = [msg("n-grams beside the network: --with-counts")] * (ahead_of_counts < 0 and may_join)
    return replace(
        found,
        ahead_of_counts=ahead_of_counts,
        best_baseline=name,
        ahead_of_baselines=ahead,
        sentences=sentences,
        advice=found.advice + counts if points[1:] else found.advice,
    )


def verdict_on(
    points: Sequence[Point],
    config: Config,
    tokens_per_char: float,
    passes: float,
    baselines: Baselines | None,
    *,
    copied: bool,
) -> Diagnosis:
    """The verdict on a run's curve alone; the baselines say what chance is."""
    if config.model.spec.counted:
        return Diagnosis("counted", sentences=[COUNTED], advice=[AFTER_COUNTING])
    if not points:
        return too_short(0)
    top, last = best(points), points[-1]
    gap = (last.validation - last.train) * tokens_per_char
    if memorised(last.train * tokens_per_char, gap, passes, len(points), baselines):
        said = memorised_in_words(last, tokens_per_char, passes, baselines)
        advice = against_overfitting(config, gap, points)
        sentences = [said]
        return Diagnosis("overfit", best_step=top.step, gap=gap, sentences=sentences, advice=advice)
    if len(points) < 2:
        return too_short(1)
    before = next((p for p in reversed(points) if 4 * p.step <= 3 * last.step), points[0])
    fall = (before.validation - last.validation) * tokens_per_char
    rise = (last.validation - top.validation) * tokens_per_char
    larger = f"--set n_embd={2 * config.model.n_embd}"
    verdict: Verdict = "done"
    advice: list[str]
    if rise > WORTH_NAMING and last.train < top.train:
        verdict = "overfit"
        rose = msg(
            "Overfit since step {best:,}: from there to step {last:,} the validation loss rose by "
            "{rise:.3f} nats/char while the training loss went on falling.",
            best=top.step,
            last=last.step,
            rise=rise,
        )
        if of_another_kind(baselines):
            kept = msg(
                "The validation text is of another kind: frequencies do worse than chance on it; "
                "the weights of step {step:,} are kept.",
                step=top.step,
            )
            advice = [
                msg("text of both kinds in the training part: what it lacks cannot be learned")
            ]
        else:
            kept = msg(
                "After that it only memorised this text; the weights of step {step:,} are kept.",
                step=top.step,
            )
            advice = against_overfitting(config, gap, points)
        said = joined(" ", (rose, kept))
    elif fall > WORTH_NAMING:
        verdict = "still learning"
        said = msg(
            "Still learning: from step {first:,} to the end at step {last:,} the validation loss "
            "fell by another {fall:.3f} nats/char.",
            first=before.step,
            last=last.step,
            fall=fall,
        )
        minutes = config.train.minutes
        longer = f"--minutes {2 * minutes:g}" if minutes else f"--steps {2 * last.step}"
        advice = [msg("more time: {options}", options=longer)]
        if passes < 1:
            advice.append(
                msg(
                    "then a larger model too: {options} ({share:.0%} of its text is read)",
                    options=larger,
                    share=passes,
                )
            )
        elif gap < SMALL_GAP:
            advice.append(
                msg(
                    "then a larger model too: {options} (it has memorised nothing yet)",
                    options=larger,
                )
            )
    else:
        said = msg(
            "Done: from step {first:,} to the end at step {last:,} the validation loss changed by "
            "{change:+.3f} nats/char, no more than another seed would change it.",
            first=before.step,
            last=last.step,
            change=-fall,
        )
        deeper = f"--set n_layer={config.model.n_layer + 2}"
        advice = [msg("a larger model: {options}, or {others}", options=larger, others=deeper)]
        if passes >= 1 and gap >= SMALL_GAP:
            advice = against_overfitting(config, gap, points)
    return Diagnosis(
        verdict,
        since_step=top.step if verdict == "overfit" else None,
        best_step=top.step,
        fall_in_last_quarter=fall,
        rise_since_best=rise,
        gap=gap,
        sentences=[said, gap_in_words(gap, passes, copied=copied)],
        advice=advice,
    )


def other_tokens(kind: str, trial: Trial) -> list[str]:
    """The tokenizer that was clearly better than this one in a trial, as advice."""
    losses, best = trial.nats_per_char, trial.best
    if kind not in losses or losses[kind] - losses[best] < WORTH_NAMING:
        return []
    return [
        msg(
            "other tokens: --tokenizer {best} (before the run, on {characters:,} characters held "
            "out from training, it gave {lower:.3f} nats/char, and {kind} {loss:.3f})",
            best=best,
            characters=trial.characters // 2,
            lower=losses[best],
            kind=kind,
            loss=losses[kind],
        )
    ]


def too_short(evaluations: int) -> Diagnosis:
    """The verdict on a run without a curve."""
    said = msg(
        "Too short to tell: a curve needs two evaluations, and this run has {number}.",
        number=evaluations,
    )
    return Diagnosis("too short to tell", sentences=[said])


def of_another_kind(baselines: Baselines | None) -> bool:
    """Whether the frequencies of the training text do worse on the validation text than chance."""
    return baselines is not None and baselines.unigram > baselines.uniform


def memorised(
    train: float, gap: float, passes: float, evaluations: int, baselines: Baselines | None
) -> bool:
    """Whether the gap alone shows that a model has memorised its text, without a curve.

    That the last loss is worse than chance shows it too, however the curve goes on. It does not
    where frequencies alone do worse than chance: then the validation text is of another kind.
    """
    if passes < 1 or of_another_kind(baselines):
        return False
    worse_than_chance = bool(baselines) and train < baselines.uniform < train + gap
    return worse_than_chance or (evaluations == 1 and gap > MEMORISED_GAP)


def memorised_in_words(
    last: Point, tokens_per_char: float, passes: float, baselines: Baselines | None
) -> str:
    """How far training and validation loss are apart."""
    train, validation = last.train * tokens_per_char, last.validation * tokens_per_char
    worse = ""
    if baselines and validation > baselines.uniform:
        worse = msg(", worse than the uniform guess ({loss:.3f})", loss=baselines.uniform)
    return msg(
        "Overfit: at step {step:,}, after {epochs:.1f} epochs, the training loss is {train:.3f} "
        "nats/char and the validation loss {validation:.3f}{worse}. It has memorised this text.",
        step=last.step,
        epochs=passes,
        train=train,
        validation=validation,
        worse=worse,
    )


def against_overfitting(config: Config, gap: float, points: Sequence[Point]) -> list[str]:
    """What helps a model that has memorised its training text instead of learning the language."""
    dropout = config.model.dropout
    more = 0.2 if dropout < 0.2 else min(0.5, round(dropout + 0.1, 2))
    advice: list[str] = [
        msg("more text: training and validation loss are {gap:.3f} nats/char apart", gap=gap)
    ]
    if more > dropout:
        advice.append(
            msg("dropout: --set dropout={more} (it was {dropout:g})", more=more, dropout=dropout)
        )
    smaller = max(16, config.model.n_embd // 2)
    advice.append(msg("a smaller model: --set n_embd={width}", width=smaller))
    if (wasted := evaluations_since_best(points)) > 3 and not config.train.patience:
        advice.append(
            msg(
                "--patience 3 stops sooner: {number} evaluations brought nothing better",
                number=wasted,
            )
        )
    return advice


def gap_in_words(gap: float, passes: float, *, copied: bool) -> str:
    """The gap between training and validation loss, and what it means."""
    if copied:
        return msg(
            "Training and validation loss end {gap:+.3f} nats/char apart; with this much copied, "
            "that says little of new text.",
            gap=gap,
        )
    if gap < SMALL_GAP:
        return msg(
            "Training and validation loss end {gap:+.3f} nats/char apart: it predicts new text "
            "about as well as the text it has read.",
            gap=gap,
        )
    if passes < 1:
        return msg(
            "Training and validation loss end {gap:.3f} nats/char apart. Little of it can be "
            "memorised after {epochs:.1f} epochs: the validation text is harder.",
            gap=gap,
            epochs=passes,
        )
    return msg(
        "Training and validation loss end {gap:.3f} nats/char apart: what it has memorised after "
        "{epochs:.1f} epochs, and by how much the validation text is harder.",
        gap=gap,
        epochs=passes,
    )


def against(name: str, ahead: float) -> str:
    """How the model compares with the best of the baselines."""
    shown = msg("the uniform guess") if name == "knowing nothing" else predictor(name)
    if ahead < -AS_GOOD:
        if name == "knowing nothing":
            return msg(
                "Worse than {name}: its loss is lower by {nats:.3f} nats/char.",
                name=shown,
                nats=-ahead,
            )
        return msg(
            "Worse than {name}: their loss is lower by {nats:.3f} nats/char.",
            name=shown,
            nats=-ahead,
        )
    if ahead <= AS_GOOD:
        return msg(
            "It is as good as {name}: the losses differ by less than 0.001 nats/char.", name=shown
        )
    return msg(
        "It beats the best of the simpler predictors, {name}, by {nats:.3f} nats/char.",
        name=shown,
        nats=ahead,
    )


def predictor(name: str) -> str:
    """The n-gram counts of the baselines' rows by a name that can be translated."""
    order, dash, rest = name.partition("-gram")
    if dash and rest == " counts":
        return msg("{order}-gram counts", order=order)
    return by_english(
        msg("bigram counts"),
        msg("unigram counts"),
    ).get(name, name)
