"""The report card: everything on it, measured, before any of it is drawn or written."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp, log
from typing import Any

from hornbook.eval.diagnosis import Point, curve
from hornbook.eval.loss import losses as token_losses
from hornbook.infer.sample import SAMPLE_TEMPERATURE, Sample, generate_sample
from hornbook.language import msg
from hornbook.ngram.suffix_array import SuffixArray
from hornbook.report import characters
from hornbook.report.characters import CharacterLosses, Kind, Passage
from hornbook.report.compression import Compressed
from hornbook.report.confidence import Interval, interval
from hornbook.report.context import ContextLoss, loss_by_context
from hornbook.report.origin import Origin, trace
from hornbook.report.textual import Textual
from hornbook.runs.result import Result

OTHER_TEMPERATURES = (0.5, 1.0)
OTHER_SAMPLE_TOKENS = 300
COPY_LENGTHS = (20, 50, 100)
# The longest context measured, in blocks, and how many positions: 111,539 tokens have only 27
# pieces of 4,096, too few to distinguish a gain from noise.
CONTEXT_BLOCKS, CONTEXT_POSITIONS, BRIEF_POSITIONS = 4, 65_536, 16_384


@dataclass(frozen=True)
class Predictor:
    """What predicts the validation text, its kind, and its loss."""

    name: str
    kind: str
    nats_per_char: float
    note: str = ""


@dataclass(frozen=True)
class TracedSample:
    """A sample; `match_lengths` has the longest match around each of its text's characters."""

    temperature: float
    sample: Sample
    match_lengths: list[int]

    def as_dict(self) -> dict[str, Any]:
        """The sample and its figures as in the JSON."""
        figures = {"match_lengths": self.match_lengths}
        shares = {"share_copied": shares_copied(self.match_lengths)}
        return {"temperature": self.temperature, **asdict(self.sample), **figures, **shares}


@dataclass(frozen=True)
class Card:
    """A report card. Losses are in nats per character, except in `points`: nats per token."""

    name: str
    result: Result
    confidence: Interval
    ahead_of_counts: Interval
    predictors: list[Predictor]
    compressed: list[Compressed]
    points: list[Point]
    training_losses: list[tuple[int, float]]
    context: ContextLoss | None
    kinds: list[Kind]
    passages: list[Passage]
    ordinary: Passage
    samples: list[TracedSample]
    copied_in_real_text: dict[int, float]
    origin: Origin
    losses: CharacterLosses

    @property
    def nats_per_char(self) -> float:
        """The headline: the loss on the validation text."""
        return self.result.evaluation.nats_per_char

    @property
    def perplexity(self) -> float:
        """Per character: the model is as uncertain as among this many equally likely ones."""
        return exp(self.nats_per_char)

    def as_dict(self) -> dict[str, Any]:
        """The figures as in `report.json`."""
        return {
            **self.result.as_dict(),
            "val_nats_per_char_95": [self.confidence.low, self.confidence.high],
            "val_perplexity_per_char": self.perplexity,
            "bootstrap": {
                "stretch_characters": self.confidence.stretch,
                "stretches": self.confidence.stretches,
            },
            "ahead_of_counts_95": [self.ahead_of_counts.low, self.ahead_of_counts.high],
            "scale": [asdict(each) for each in self.predictors],
            "curve_nats_per_token": [asdict(point) for point in self.points],
            "reach": None if self.context is None else asdict(self.context),
            "kinds_of_character": [asdict(kind) for kind in self.kinds],
            "most_surprising": [asdict(passage) for passage in self.passages],
            "samples": [sample.as_dict() for sample in self.samples],
            "share_copied_in_real_text": self.copied_in_real_text,
            "made_from": asdict(self.origin),
        }


def examine(result: Result, textual: Textual | None = None) -> Card:
    """Measure everything on the report card of a run.

    `textual` is of the same text and split, if it is known already.
    """
    trained, dataset = result.trained, result.dataset
    tokenizer, tokens = trained.tokenizer, result.measured[1:]
    origin = trace(result)
    losses, counted = (
        characters.losses_by_character(tokenizer, tokens, nats)
        for nats in (result.nats, result.baselines.ngram_nats)
    )
    textual = textual or Textual.of(result.corpus, trained.config.data.validation_fraction)
    validation_text, index = textual.validation_text, textual.index
    # The first token is given, not predicted.
    given = validation_text[: origin.validation_characters - len(losses.text)]
    if len(result.measured) == len(dataset.validation):
        losses = replace(losses, first_line=origin.training_lines + given.count("\n") + 1)
    rows = list(result.folder.metrics_rows())
    return Card(
        name=result.folder.path.resolve().name,
        result=result,
        confidence=interval(losses.nats),
        ahead_of_counts=interval(counted.nats - losses.nats),
        predictors=sorted(
            predictors(result, textual.compressed), key=lambda each: each.nats_per_char
        ),
        compressed=textual.compressed,
        points=curve(rows),
        training_losses=[(row["step"], row["train_loss"]) for row in rows],
        # N-grams have the same context at every position, and answers stand anywhere.
        context=None
        if result.kind == "counts" or dataset.answers is not None
        else measure_context(result, BRIEF_POSITIONS if textual.brief else CONTEXT_POSITIONS),
        kinds=characters.kinds(losses, counted),
        passages=characters.passages(losses),
        ordinary=characters.ordinary_passage(losses),
        samples=sorted(generate_samples(result, index), key=lambda sample: sample.temperature),
        copied_in_real_text=shares_copied(textual.match_lengths),
        origin=origin,
        losses=losses,
    )


def measure_context(result: Result, most: int) -> ContextLoss:
    """Loss by context length, in pieces short enough for many of them to be averaged."""
    model, nats = result.trained.config.model, result.nats
    size = min(model.context_size, CONTEXT_BLOCKS * model.block_size)
    if size < model.context_size:
        network = result.trained.model
        nats = token_losses(network, result.measured, block_size=size, max_positions=most)
    return loss_by_context(nats, size, result.tokens_per_char)


def predictors(result: Result, compressed: list[Compressed]) -> Iterator[Predictor]:
    """The model, n-gram counts, the uniform guess and compressors, by the names of the JSON."""
    longest = msg("the order that fits held-out text best")
    notes = {
        "bigram counts": "",
        "unigram counts": msg("the frequency of each token"),
        "knowing nothing": msg("all tokens equally likely"),
    }
    yield Predictor("this model", result.kind, result.evaluation.nats_per_char)
    yield Predictor(
        "this model, dynamic", result.kind, result.dynamic.nats_per_char, measured_part(result)
    )
    for name, nats in result.baselines.rows().items():
        kind = "chance" if name == "knowing nothing" else "counts"
        yield Predictor(name, kind, nats, notes.get(name, longest))
    for each in compressed:
        yield Predictor(each.name, "compressor", each.bits_per_char * log(2), each.settings)


def measured_part(result: Result) -> str:
    """How the dynamic figure was measured."""
    error = result.dynamic.standard_error
    if error is None:
        return msg("it learns the validation text as it reads")
    return msg(
        "it learns the validation text as it reads, in {positions:,} evenly spaced tokens "
        "(standard error {error:.4f})",
        positions=result.dynamic.positions,
        error=error,
    )


def generate_samples(result: Result, index: SuffixArray) -> Iterator[TracedSample]:
    """The run's own sample, and one at a lower and a higher temperature."""
    model, dataset, length = result.trained.model, result.dataset, OTHER_SAMPLE_TOKENS
    samples = {SAMPLE_TEMPERATURE: result.sample}
    for each in OTHER_TEMPERATURES:
        samples[each] = generate_sample(model, dataset, temperature=each, max_new_tokens=length)
    for temperature, sample in samples.items():
        yield TracedSample(temperature, sample, index.match_lengths(sample.text).tolist())


def shares_copied(match_lengths: Sequence[int]) -> dict[int, float]:
    """The share of characters in verbatim matches of each of COPY_LENGTHS or more."""
    size = max(1, len(match_lengths))
    return {least: sum(n >= least for n in match_lengths) / size for least in COPY_LENGTHS}
