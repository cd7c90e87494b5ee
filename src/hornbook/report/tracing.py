"""Where did these words come from? The parts of a text that occur verbatim in the training text.

A model may repeat its training text word for word. The same is measured for the validation text,
which nobody copied: what that shares with the training text by habit and chance is the reference.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, Literal

import numpy as np

from hornbook.errors import CheckpointError, ConfigError, DataError
from hornbook.language import msg
from hornbook.ngram.suffix_array import Match, SuffixArray
from hornbook.report.copies import LENGTHS, Passage, Shares, Trace, TracedText
from hornbook.runs.folder import open_run, run_text
from hornbook.runs.load import TrainedModel, load
from hornbook.text.forms import line_number

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from pathlib import Path

# The reference is at most this many stretches of validation text, and as many characters as 20
# samples of the default length. It takes 0.1 s.
MOST_STRETCHES = 20
MOST_CHARACTERS = 10_000

# Characters shown before and after a passage.
SURROUNDINGS = 40


def trace(
    run: str | os.PathLike[str] | TrainedModel,
    text: str | None = None,
    *,
    samples: int = 3,
    max_new_tokens: int = 500,
    temperature: float = 1.0,
    seed: int = 0,
    at_least: int = 20,
    checkpoint: Literal["best", "last"] = "best",
    on_note: Callable[[str], None] = lambda _: None,
) -> Trace:
    """Find the parts of a text, or of new samples, that occur verbatim in a run's training text.

    Without `text`, the model generates `samples` samples of `max_new_tokens` tokens, with the seeds
    from `seed` on. Passages of `at_least` characters are listed. The index of the training text is
    kept in the run folder's `copies/`; `on_note` is called when it is built.
    Raises: ConfigError for a setting out of range; DataError for an empty text; CheckpointError
    if the run cannot be read or its text has changed.
    """
    for name, value in (
        ("samples", samples),
        ("max_new_tokens", max_new_tokens),
        ("at_least", at_least),
    ):
        if value < 1:
            raise ConfigError(msg("{name} = {value}: expected 1 or more", name=name, value=value))
    if text == "":
        raise DataError(msg("the text to trace is empty: expected at least one character"))
    folder = run.folder if isinstance(run, TrainedModel) else open_run(run)
    config = run.config if isinstance(run, TrainedModel) else folder.settings()
    corpus = run_text(folder, config)
    whole = corpus.text
    cut = corpus.split_place(config.data.validation_fraction)
    training, validation = whole[:cut], whole[cut:]
    index = index_of(folder.copies, training, on_note)
    if text is None:
        trained = run if isinstance(run, TrainedModel) else load(folder.path, which=checkpoint)
        options = {"max_new_tokens": max_new_tokens, "temperature": temperature}
        seeds = range(seed, seed + samples)
        sources = [(trained.generate(seed=each, **options), each) for each in seeds]
    else:
        sources = [(text, None)]
    found = [(each, number, index.matches(each, at_least)) for each, number in sources]
    files = corpus.files() if any(matches for *_, matches in found) else []
    texts = tuple(
        TracedText(
            each,
            index.match_lengths(each, LENGTHS[0]),
            tuple(passage(whole, files, each, match) for match in matches),
            number,
        )
        for each, number, matches in found
    )
    length = max(1, round(sum(len(each.text) for each in texts) / len(texts)))
    return Trace(
        run=str(folder.path),
        corpus=corpus.source,
        training_characters=len(training),
        at_least=at_least,
        texts=texts,
        real=reference(index, validation, length),
    )


def index_of(folder: Path, text: str, on_note: Callable[[str], None]) -> SuffixArray:
    """The index saved in `folder` if it is sound and of this text; else a new one, saved there."""
    try:
        return SuffixArray.open(folder, text)
    except CheckpointError as error:
        why = msg("only the first time")
        if folder.exists():
            why = msg("{error}; building it again", error=error)
    on_note(
        msg(
            "indexing {number:,} characters of training text in {folder}: {why}",
            number=len(text),
            folder=folder,
            why=why,
        )
    )
    index = SuffixArray.build(text)
    try:
        index.save(folder)
    except CheckpointError as error:
        on_note(msg("{error}; the index is not kept", error=error))
    return index


def reference(index: SuffixArray, validation: str, length: int) -> Shares:
    """The shares of evenly spaced stretches of validation text, each `length` characters long."""
    length = min(length, len(validation))
    most = min(MOST_STRETCHES, MOST_CHARACTERS // length, len(validation) // length)
    starts = np.linspace(0, len(validation) - length, max(1, most)).astype(int)
    return Shares.of(
        [index.match_lengths(validation[start : start + length], LENGTHS[0]) for start in starts]
    )


def passage(corpus: str, files: Sequence[tuple[int, str]], text: str, match: Match) -> Passage:
    """A match with its words and the file and line of its first occurrence."""
    begin, end = match.position, match.position + match.training_length
    file_begin, file = files[bisect_right(files, begin, key=itemgetter(0)) - 1]
    return Passage(
        text=text[match.start : match.end],
        match=match,
        file=file,
        line=line_number(corpus, file_begin, begin),
        before=corpus[max(file_begin, begin - SURROUNDINGS) : begin],
        after=corpus[end : end + SURROUNDINGS],
    )
