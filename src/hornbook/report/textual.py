"""What a report card shows of a text alone, whichever model has read it."""

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Self

from hornbook.cores import beside
from hornbook.eval.baselines import Baselines, count_baselines
from hornbook.ngram.suffix_array import SuffixArray
from hornbook.plan.costs import Text, brief
from hornbook.report.compression import VALIDATION_BYTES, Compressed, compress_all
from hornbook.text.corpus import Corpus
from hornbook.text.dataset import Reader
from hornbook.training import Trainer

# The reference for copying: this much real validation text, matched like a sample.
REFERENCE_CHARACTERS = 20_000
# How much of the training text's end is searched for copies: 0.1 s per million characters.
INDEXED_CHARACTERS = 20_000_000


@dataclass(frozen=True)
class Textual:
    """The beginning of the validation text, what compressors make of it, and its copies.

    `index` finds copies in the end of the training text, and `match_lengths` has those around the
    first characters of the validation text. The card of a `brief` one leaves out what takes long.
    """

    validation_text: str
    compressed: list[Compressed]
    index: SuffixArray
    match_lengths: list[int]
    brief: bool = False

    @classmethod
    def of(cls, corpus: Corpus, validation_fraction: float, *, brief: bool = False) -> Self:
        """Measure a text that may be larger than memory: only the parts needed are read."""
        text, cut = Reader(corpus), corpus.split_place(validation_fraction)
        train_text = "".join(text.between(max(0, cut - INDEXED_CHARACTERS), cut))
        stop = min(corpus.characters, cut + VALIDATION_BYTES)
        validation_text = "".join(text.between(cut, stop))
        index = SuffixArray.build(train_text)
        found = index.match_lengths(validation_text[:REFERENCE_CHARACTERS]).tolist()
        compressed = compress_all(train_text, validation_text, brief=brief)
        return cls(validation_text, compressed, index, found, brief)


def ahead(trainer: Trainer) -> Future[tuple[Baselines, Textual]]:
    """Measure in a thread what a run's figures have of its text alone."""
    config, corpus, dataset = trainer.config, trainer.corpus, trainer.dataset
    model, fraction = trainer.state.model, config.data.validation_fraction
    few = brief(config, Text(dataset.train_tokens, len(dataset.validation), model.vocab_size))

    def measure() -> tuple[Baselines, Textual]:
        baselines = count_baselines(model, config.model, dataset)
        return baselines, Textual.of(corpus, fraction, brief=few)

    return beside(measure)
