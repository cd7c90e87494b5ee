"""Topics explained in figures: the mean of the past, and the table of bigrams."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hornbook.config import DataConfig
from hornbook.errors import ConfigError
from hornbook.language import msg
from hornbook.models.averaging import (
    average_loop,
    average_matrix,
    average_softmax,
    average_weights,
    softmax_weights,
)
from hornbook.models.bigram import BigramLanguageModel
from hornbook.ngram.counting import best_bigram_loss, bigram_counts
from hornbook.runs.folder import run_text
from hornbook.runs.load import load
from hornbook.text.corpus import Corpus, read_corpus
from hornbook.text.dataset import Dataset, prepare

TOPICS = {
    "averaging": msg("the mean of the past in three forms, and why allclose is False for them"),
    "bigram": msg("the table of logits compared with the table of counts, and what training lacks"),
}

FORMS = {"loop": average_loop, "matrix": average_matrix, "softmax": average_softmax}
# The defaults of torch.allclose: |one - other| <= ATOL + RTOL * |other|.
RTOL, ATOL = 1e-5, 1e-8
SHOWN_FOLLOWERS = 3

Floats = NDArray[np.float64]
Matrix = list[list[float]]


@dataclass(frozen=True)
class Entry:
    """The values of two forms at one index [b, t, c] of the mean."""

    place: tuple[int, ...]
    one: float
    other: float
    difference: float
    ulps: int
    tolerance: float


@dataclass(frozen=True)
class Difference:
    """Two forms of one calculation compared in one precision."""

    forms: tuple[str, str]
    precision: str
    entries: int
    differing: int
    allclose: bool
    largest: Entry
    most_ulps: Entry
    beyond_tolerance: list[Entry]


@dataclass(frozen=True)
class Averaging:
    """The lecture's mathematical trick: its examples, and where its three forms differ."""

    weights: Matrix
    softmax_weights: Matrix
    example_a: Matrix
    example_b: Matrix
    example_c: Matrix
    x: Matrix
    mean: Matrix
    differences: list[Difference]


def averaging() -> Averaging:
    """Compute the three forms on the notebook's random numbers, in float32 and float64."""
    generator = torch.Generator().manual_seed(1337)
    x_BTC = torch.randn(4, 8, 2, generator=generator)
    length = x_BTC.size(1)
    b = torch.randint(0, 10, (3, 2), generator=generator.manual_seed(42)).float()
    differences: list[Difference] = []
    for dtype in (torch.float32, torch.float64):
        means = {name: form(x_BTC.to(dtype)) for name, form in FORMS.items()}
        differences += [
            compare((one, other), means[one], means[other]) for one, other in combinations(FORMS, 2)
        ]
    return Averaging(
        weights=average_weights(length).tolist(),
        softmax_weights=softmax_weights(torch.zeros(length, length)).tolist(),
        example_a=average_weights(3).tolist(),
        example_b=b.tolist(),
        example_c=(average_weights(3) @ b).tolist(),
        x=x_BTC[0].tolist(),
        mean=average_loop(x_BTC)[0].tolist(),
        differences=differences,
    )


def compare(forms: tuple[str, str], one: Tensor, other: Tensor) -> Difference:
    """Where two tensors of one shape and precision differ, and whether torch.allclose is True."""
    gap = (one - other).abs()
    ulps = units_in_the_last_place(one, other)
    tolerance = ATOL + RTOL * other.abs()

    def entry(flat: int) -> Entry:
        place = tuple(int(i) for i in np.unravel_index(flat, one.shape))
        return Entry(
            place,
            one=one[place].item(),
            other=other[place].item(),
            difference=gap[place].item(),
            ulps=int(ulps[place].item()),
            tolerance=tolerance[place].item(),
        )

    return Difference(
        forms=forms,
        precision=str(one.dtype).removeprefix("torch."),
        entries=one.numel(),
        differing=int((gap > 0).sum()),
        allclose=torch.allclose(one, other, rtol=RTOL, atol=ATOL),
        largest=entry(int(gap.argmax())),
        most_ulps=entry(int(ulps.argmax())),
        beyond_tolerance=[
            entry(int(flat)) for flat in (gap > tolerance).flatten().nonzero().flatten()
        ],
    )


def units_in_the_last_place(one: Tensor, other: Tensor) -> Tensor:
    """The distance of each value to its counterpart in units in the last place (ulps), as int64.

    The bits of a float, read as an integer, are its number in ulps from zero.
    """

    def ordinal(values: Tensor) -> Tensor:
        integer = torch.int64 if values.dtype == torch.float64 else torch.int32
        bits = values.contiguous().view(integer).long()
        lowest = torch.iinfo(integer).min
        return torch.where(bits < 0, lowest - bits, bits)

    return (ordinal(one) - ordinal(other)).abs()


@dataclass(frozen=True)
class Follower:
    """A token that follows another, and its probability in each table."""

    token: str
    counted: float
    trained: float | None


@dataclass(frozen=True)
class Row:
    """One row of the table: what follows a token.

    `divergence_nats` is the Kullback-Leibler divergence of the trained row from the counted one;
    `gap_nats` is that times the token's share of all pairs. The sum of `gap_nats` over all rows is
    the distance of the trained table's loss from the lowest one.
    """

    token: str
    count: int
    entropy_nats: float
    divergence_nats: float | None
    gap_nats: float | None
    followers: list[Follower]


@dataclass(frozen=True)
class Trained:
    """The table of a run; losses are exact over the training text, in nats per token."""

    run: str
    step: int
    loss_at_birth: float
    loss: float
    left: float
    way_gone: float


@dataclass(frozen=True)
class Bigram:
    """The table of a text's pairs, and that of a run on it. Losses are in nats per token."""

    corpus: str
    vocab_size: int
    pairs: int
    distinct_pairs: int
    uniform_loss: float
    best_loss: float
    trained: Trained | None
    rows: list[Row]


def bigram(
    corpus: str | Corpus = "python-docs", run: str | Path | None = None, *, rows: int = 10
) -> Bigram:
    """Count the bigrams of a text's training part, and compare them with the table of a run.

    A run is compared on its own text. `rows` rows are listed: those with the largest `gap_nats`, or
    without a run those of the most frequent tokens.
    Raises: ConfigError if the run is not a bigram; CheckpointError; DataError.
    """
    if run is None:
        text = read_corpus(corpus) if isinstance(corpus, str) else corpus
        return describe(text.name, prepare(text, DataConfig()), rows)
    found = load(run, which="last")
    config = found.config
    if not isinstance(found.model, BigramLanguageModel):
        raise ConfigError(
            msg(
                "--run {run}: expected a bigram run, got model = {model!r}; train one with "
                "hornbook train --model bigram",
                run=run,
                model=config.model.model,
            )
        )
    text = run_text(found.folder, config)
    dataset = prepare(text, config.data, found.tokenizer)
    counts_VV = bigram_counts(dataset.train, dataset.tokenizer.vocab_size)
    best = best_bigram_loss(dataset.train, dataset.tokenizer.vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        untrained = BigramLanguageModel(dataset.tokenizer.vocab_size)
    at_birth, loss = (
        table_loss(counts_VV, log_probabilities(model)) for model in (untrained, found.model)
    )
    trained = Trained(
        run=str(found.folder.path),
        step=found.step,
        loss_at_birth=at_birth,
        loss=loss,
        left=loss - best,
        way_gone=(at_birth - loss) / (at_birth - best),
    )
    return describe(text.name, dataset, rows, trained, log_probabilities(found.model))


def log_probabilities(model: BigramLanguageModel) -> Floats:
    """The log-probability of each token (column) after each token (row): [V,V], in nats."""
    table_VV = model.token_embedding_table.weight.detach()
    return table_VV.double().log_softmax(dim=1).numpy()


def table_loss(counts_VV: NDArray[np.int64], log_p_VV: Floats) -> float:
    """A table's exact mean loss over the text that was counted."""
    return -float((counts_VV * log_p_VV).sum() / counts_VV.sum())


def describe(
    corpus: str,
    dataset: Dataset,
    rows: int,
    trained: Trained | None = None,
    log_p_VV: Floats | None = None,
) -> Bigram:
    """The figures of the counted table; compared with a trained one if `log_p_VV` is given."""
    size = dataset.tokenizer.vocab_size
    counts_VV = bigram_counts(dataset.train, size)
    totals_V = counts_VV.sum(axis=1)
    pairs = int(totals_V.sum())
    shares_VV = counts_VV / np.maximum(totals_V, 1)[:, None]
    # p log p is 0 where p is 0, and so is p log 1.
    entropy_V = -(shares_VV * np.log(np.where(shares_VV > 0, shares_VV, 1))).sum(axis=1)
    importance_V = totals_V
    if log_p_VV is not None:
        divergence_V = -entropy_V - (shares_VV * log_p_VV).sum(axis=1)
        importance_V = divergence_V * totals_V / pairs

    def token(number: int) -> str:
        return dataset.tokenizer.decode([number])

    def row(number: int) -> Row:
        compared = log_p_VV is not None
        return Row(
            token=token(number),
            count=int(totals_V[number]),
            entropy_nats=float(entropy_V[number]),
            divergence_nats=float(divergence_V[number]) if compared else None,
            gap_nats=float(importance_V[number]) if compared else None,
            followers=[
                Follower(
                    token(other),
                    float(shares_VV[number, other]),
                    float(np.exp(log_p_VV[number, other])) if compared else None,
                )
                for other in descending(shares_VV[number])[:SHOWN_FOLLOWERS]
                if shares_VV[number, other] > 0
            ],
        )

    return Bigram(
        corpus=corpus,
        vocab_size=size,
        pairs=pairs,
        distinct_pairs=int((counts_VV > 0).sum()),
        uniform_loss=float(np.log(size)),
        best_loss=best_bigram_loss(dataset.train, size),
        trained=trained,
        rows=[row(number) for number in descending(importance_V)[:rows]],
    )


def descending(values: Floats | NDArray[np.int64]) -> list[int]:
    """The indices of values in descending order; equal values keep their order."""
    return (-values).argsort(kind="stable").tolist()
