"""The report card: everything on it, measured, before any of it is drawn or written."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import exp, log
from typing import Any

import numpy as np

from hornbook.eval.diagnosis import Diagnosis, Point, curve
from hornbook.eval.loss import losses
from hornbook.infer.engine import SAMPLE_TEMPERATURE, generate_sample
from hornbook.ngram.suffix_array import SuffixArray as CopyIndex
from hornbook.report.compression import VALIDATION_BYTES, Compressed, compress_all
from hornbook.report.origin import Origin, trace
from hornbook.report.reading import (
    Interval,
    Kind,
    Passage,
    Reach,
    Reading,
    interval,
    kinds,
    ordinary_passage,
    passages,
    reach,
    read,
)
from hornbook.runs.result import Result
from hornbook.text.dataset import Reader

OTHER_TEMPERATURES = (0.5, 1.0)
OTHER_SAMPLE_TOKENS = 300
COPY_LENGTHS = (20, 50, 100)
# The yardstick for copying: this much real validation text, matched like a sample.
YARDSTICK_CHARACTERS = 20_000
# How far back is looked for what context is worth, and at how many places: of 111,539 in pieces of
# 4,096 there are 27, too few to tell anything from chance.
BLOCKS_LOOKED_BACK, LOOKED_BACK_POSITIONS = 4, 65_536
# What is looked through for copies: its end, where a text is larger. 0.1 s a million characters.
INDEXED_CHARACTERS = 20_000_000


@dataclass(frozen=True)
class Mark:
    """A loss on the common scale; `kind` says what made it."""

    name: str
    kind: str
    nats_per_char: float
    note: str = ""


@dataclass(frozen=True)
class Sample:
    """Something the model wrote; for each character the length of the copy it lies in."""

    temperature: float
    text: str
    match_lengths: list[int]

    def share_copied(self, at_least: int) -> float:
        """How much of it lies in verbatim matches of so many characters or more."""
        return share_copied(self.match_lengths, at_least)


@dataclass(frozen=True)
class Card:
    """A report card. Losses in nats per character, of the validation text, but for `points`."""

    name: str
    result: Result
    confidence: Interval
    ahead_of_counts: Interval
    marks: list[Mark]
    compressed: list[Compressed]
    points: list[Point]
    training_losses: list[tuple[int, float]]
    reach: Reach | None
    kinds: list[Kind]
    passages: list[Passage]
    ordinary: Passage
    samples: list[Sample]
    copied_in_real_text: dict[int, float]
    origin: Origin
    reading: Reading

    @property
    def nats_per_char(self) -> float:
        """The headline."""
        return self.result.evaluation.nats_per_char

    @property
    def perplexity(self) -> float:
        """Of a character: as unsure as among so many equally likely ones."""
        return exp(self.nats_per_char)

    @property
    def diagnosis(self) -> Diagnosis:
        """What the curve says."""
        return self.result.diagnosis

    def as_dict(self) -> dict[str, Any]:
        """The figures as `report.json` has them."""
        return {
            **self.result.as_dict(),
            "val_nats_per_char_95": [self.confidence.low, self.confidence.high],
            "val_perplexity_per_char": self.perplexity,
            "bootstrap": {
                "stretch_characters": self.confidence.stretch,
                "stretches": self.confidence.stretches,
            },
            "ahead_of_counts_95": [self.ahead_of_counts.low, self.ahead_of_counts.high],
            "scale": [asdict(mark) for mark in self.marks],
            "curve_nats_per_token": [asdict(point) for point in self.points],
            "reach": None if self.reach is None else asdict(self.reach),
            "kinds_of_character": [asdict(kind) for kind in self.kinds],
            "most_surprising": [asdict(passage) for passage in self.passages],
            "samples": [
                asdict(sample) | {"share_copied": {n: sample.share_copied(n) for n in COPY_LENGTHS}}
                for sample in self.samples
            ],
            "share_copied_in_real_text": self.copied_in_real_text,
            "made_from": self.origin.as_dict(),
        }


def examine(result: Result, compressed: list[Compressed] | None = None) -> Card:
    """Everything on the report card of a measured run.

    `compressed` is what compressors make of the same text, where they have been asked already.
    """
    trained, dataset = result.trained, result.dataset
    tokenizer, tokens = trained.tokenizer, result.measured[1:]
    origin = trace(result)
    reading = read(tokenizer, tokens, result.nats)
    counted_nats = result.baselines.ngram_nats
    counted = reading if counted_nats is None else read(tokenizer, tokens, counted_nats)
    # Of a text larger than memory no more is taken than is looked at.
    text, cut = Reader(result.corpus), origin.training_characters
    train_text = "".join(text.between(max(0, cut - INDEXED_CHARACTERS), cut))
    beginning = min(result.corpus.characters, cut + VALIDATION_BYTES)
    validation_text = "".join(text.between(cut, beginning))
    index = CopyIndex.build(train_text)
    real = index.match_lengths(validation_text[:YARDSTICK_CHARACTERS]).tolist()
    if compressed is None:
        compressed = compress_all(train_text, validation_text)
    # The first token is given, so the reading begins after it.
    given = validation_text[: origin.validation_characters - len(reading.text)]
    if len(result.measured) == len(dataset.validation):
        reading = replace(reading, first_line=origin.training_lines + given.count("\n") + 1)
    rows = list(result.folder.metrics_rows())
    return Card(
        name=result.folder.path.resolve().name,
        result=result,
        confidence=interval(reading.nats),
        ahead_of_counts=interval(counted.nats - reading.nats),
        marks=sorted(marks(result, compressed), key=lambda mark: mark.nats_per_char),
        compressed=compressed,
        points=curve(rows),
        training_losses=[(row["step"], row["train_loss"]) for row in rows],
        # Counts look as far back at every place as they ever do.
        reach=None if result.kind == "counts" else look_back(result),
        kinds=kinds(reading, counted),
        passages=passages(reading),
        ordinary=ordinary_passage(reading),
        samples=sorted(write_samples(result, index), key=lambda sample: sample.temperature),
        copied_in_real_text={n: share_copied(real, n) for n in COPY_LENGTHS},
        origin=origin,
        reading=reading,
    )


def look_back(result: Result) -> Reach:
    """Loss by how much was read before, in pieces short enough for many to be averaged."""
    trained = result.trained
    context_size = trained.config.model.context_size
    size = min(context_size, BLOCKS_LOOKED_BACK * trained.config.model.block_size)
    nats = result.nats
    if size < context_size:
        nats = losses(
            trained.model, result.measured, block_size=size, max_positions=LOOKED_BACK_POSITIONS
        )
    return reach(nats, size, result.tokens_per_char)


def marks(result: Result, compressed: list[Compressed]) -> Iterator[Mark]:
    """Everything that predicts this validation text: the model, counts, compressors, nothing."""
    baselines = result.baselines
    yield Mark("this model", result.kind, result.evaluation.nats_per_char)
    if baselines.ngram_order != 2:
        yield Mark(f"{baselines.ngram_order}-gram counts", "counts", baselines.ngram, "the best")
    yield Mark("bigram counts", "counts", baselines.bigram)
    yield Mark("unigram counts", "counts", baselines.unigram, "how frequent each token is")
    yield Mark("knowing nothing", "chance", baselines.uniform, "all tokens equally likely")
    for each in compressed:
        yield Mark(each.name, "compressor", each.bits_per_char * log(2), each.settings)


def write_samples(result: Result, index: CopyIndex) -> Iterator[Sample]:
    """The run's own sample, and one at a lower and a higher temperature."""
    texts = {SAMPLE_TEMPERATURE: result.sample}
    for temperature in OTHER_TEMPERATURES:
        texts[temperature] = generate_sample(
            result.trained.model,
            result.trained.tokenizer,
            temperature=temperature,
            max_new_tokens=OTHER_SAMPLE_TOKENS,
        )
    for temperature, text in texts.items():
        yield Sample(temperature, text, index.match_lengths(text).tolist())


def share_copied(match_lengths: list[int], at_least: int) -> float:
    """The share of characters in verbatim matches of so many characters or more."""
    return float((np.array(match_lengths) >= at_least).mean()) if match_lengths else 0.0
