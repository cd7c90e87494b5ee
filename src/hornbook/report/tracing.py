"""Where did these words come from? A text beside the text that its model learned from.

A model may write what it has read, word for word. Each stretch of a text that also stands in the
training text is found here and shown in its place. The same is asked of the validation text, which
nobody copied: what it shares with the training text by habit and by chance is the yardstick.
"""

from __future__ import annotations

import html
from bisect import bisect_right
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hornbook.config import load_config
from hornbook.errors import CheckpointError, ConfigError, DataError
from hornbook.ngram.suffix_array import Match
from hornbook.ngram.suffix_array import SuffixArray as CopyIndex
from hornbook.runs.folder import check_same_text, open_run
from hornbook.runs.load import TrainedModel, load
from hornbook.text.corpus import read_corpus
from hornbook.text.dataset import split_text

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# The lengths of runs that shares are given for, in characters, ascending.
RUNS = (20, 50, 100)

# The yardstick is this many stretches of validation text, or fewer, of so many characters in all:
# what 20 samples of the usual length have. It takes a tenth of a second.
MOST_STRETCHES = 20
MOST_CHARACTERS = 10_000

# Characters shown on either side of a passage.
SURROUNDINGS = 40

PAGE = "white-space:pre-wrap;overflow-wrap:anywhere;padding:.6em 0;border-top:1px solid"

# Tints for matches that reach none, one, two or all of RUNS: see-through, so that text keeps the
# page's own colour, light or dark; underlined too, for those who do not see or print colours.
TINTS = (
    "",
    "background:rgba(255,190,0,.22);border-bottom:1px dotted",
    "background:rgba(255,120,0,.36);border-bottom:1px solid",
    "background:rgba(225,30,40,.42);border-bottom:2px solid",
)


@dataclass(frozen=True)
class Passage:
    """A stretch of a text that stands in the training text, and where it first stands there.

    `line` counts from 1 within `file`, which is a file's name in its folder where the corpus is a
    folder, and the corpus's source otherwise.
    """

    text: str
    match: Match
    file: str
    line: int
    before: str
    after: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `start`, `end` and `position` are offsets in characters."""
        values = asdict(self)
        return {**values.pop("match"), "end": self.match.end, **values}


@dataclass(frozen=True)
class Shares:
    """How much of `texts` texts is copied: what part of their characters, by length of the run.

    `in_runs` has the share of characters in verbatim runs of each length of `RUNS`, or more;
    `longest` is the longest run in characters, 0 where none has 20.
    """

    texts: int
    characters: int
    in_runs: dict[int, float]
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[NDArray[np.int64]]) -> Shares:
        """From the match lengths of each text."""
        every = np.concatenate(lengths)
        size = max(1, len(every))
        in_runs = {run: int(np.count_nonzero(every >= run)) / size for run in RUNS}
        return cls(len(lengths), len(every), in_runs, int(every.max(initial=0)))


@dataclass(frozen=True)
class TracedText:
    """A text and its passages; `seed` is that of a sample.

    `lengths` has for each character the longest match that covers it, 0 where it has not 20.
    """

    text: str
    lengths: NDArray[np.int64]
    passages: tuple[Passage, ...]
    seed: int | None = None

    def pieces(self) -> Iterator[tuple[str, int]]:
        """The text in pieces, each with how many of `RUNS` its matches reach: 0 is nobody's."""
        levels = np.searchsorted(RUNS, self.lengths, side="right").tolist()
        for level, group in groupby(zip(self.text, levels, strict=True), key=lambda pair: pair[1]):
            yield "".join(character for character, _ in group), level


@dataclass(frozen=True)
class Trace:
    """What `hb.trace` found: prints as a summary, and shows the texts coloured in a notebook."""

    run: str
    corpus: str
    training_characters: int
    at_least: int
    texts: tuple[TracedText, ...]
    real: Shares

    @property
    def sampled(self) -> bool:
        """Whether the texts are samples of the model's."""
        return self.texts[0].seed is not None

    @property
    def shares(self) -> Shares:
        """How much of all the texts together is copied."""
        return Shares.of([text.lengths for text in self.texts])

    @property
    def summary(self) -> str:
        """The two figures to compare, at the longest of `RUNS` that either has."""
        who = "the samples copy" if self.sampled else "the text copies"
        ours, real = self.shares.in_runs, self.real.in_runs
        run = max((run for run in RUNS if ours[run] or real[run]), default=RUNS[0])
        return f"{who} {ours[run]:.1%} in runs of {run}+, the real text {real[run]:.1%}"

    def passages(self) -> list[Passage]:
        """The passages of all texts, the longest first."""
        every = [passage for text in self.texts for passage in text.passages]
        return sorted(every, key=lambda passage: -passage.match.length)

    def where(self, passage: Passage) -> str:
        """The file, where the corpus has several, and the line."""
        line = f"line {passage.line:,}"
        return line if passage.file == self.corpus else f"{passage.file}, {line}"

    def share_rows(self) -> list[tuple[str, ...]]:
        """The table of shares: ours above the yardstick."""
        ours = "samples" if self.sampled else "the text"
        return [
            (
                name
                if found.texts == 1
                else f"{name} ({found.texts} x {found.characters // found.texts:,} characters)",
                *(f"{share:.1%}" for share in found.in_runs.values()),
                f"{found.longest:,}" if found.longest else f"under {RUNS[0]}",
            )
            for name, found in ((ours, self.shares), ("real validation text", self.real))
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; offsets are in characters."""
        return {
            "run": self.run,
            "corpus": self.corpus,
            "training_characters": self.training_characters,
            "at_least": self.at_least,
            "shares": asdict(self.shares),
            "real": asdict(self.real),
            "texts": [
                {
                    "text": each.text,
                    "seed": each.seed,
                    **asdict(Shares.of([each.lengths])),
                    "matches": [passage.as_dict() for passage in each.passages],
                }
                for each in self.texts
            ],
        }

    def __str__(self) -> str:
        listed = (
            f"{each.match.length:,} characters, {self.where(each)}: {on_one_line(each.text)}"
            for each in self.passages()
        )
        return "\n".join([self.summary, *listed])

    def _repr_html_(self) -> str:
        legend = " ".join(tinted(f"{run}+", level) for level, run in enumerate(RUNS, start=1))
        parts = [
            f"<p><b>{html.escape(self.summary)}</b><br>in verbatim runs of {legend} characters</p>",
            html_table(
                ("", *(f"{run}+" for run in RUNS), "longest"),
                [[html.escape(cell) for cell in row] for row in self.share_rows()],
            ),
        ]
        for each in self.texts:
            body = "".join(tinted(piece, level) for piece, level in each.pieces())
            parts.append(f'<pre style="{PAGE}">{body}</pre>')
        if passages := self.passages():
            rows = [
                (
                    f"{each.match.length:,}",
                    f"{html.escape(on_one_line(each.before))}"
                    f"<b>{html.escape(on_one_line(each.text))}</b>"
                    f"{html.escape(on_one_line(each.after))}",
                    html.escape(self.where(each)),
                    f"{each.match.occurrences:,}",
                )
                for each in passages
            ]
            parts.append(html_table(("length", "words", "first at", "times"), rows))
        return f"<div>{''.join(parts)}</div>"


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
    """What of a text, or of new samples, stands word for word in a run's training text.

    Without `text` the model writes `samples` samples of `max_new_tokens` tokens, by seeds from
    `seed` on. Passages of `at_least` characters are told of one by one. The index of the training
    text is kept in the run folder's `copies/`; `on_note` hears when it is made.
    Raises: ConfigError for a setting out of range; DataError for an empty text; CheckpointError
    when the run cannot be read or its text has changed.
    """
    for name, value in (
        ("samples", samples),
        ("max_new_tokens", max_new_tokens),
        ("at_least", at_least),
    ):
        if value < 1:
            raise ConfigError(f"{name} = {value}: expected 1 or more")
    if text == "":
        raise DataError("the text to trace is empty: expected at least one character")
    folder = run.folder if isinstance(run, TrainedModel) else open_run(run)
    config = run.config if isinstance(run, TrainedModel) else load_config(folder.config)
    corpus = read_corpus(config.data.corpus, encoding=config.data.encoding)
    check_same_text(corpus, folder)
    whole = corpus.text
    learned, validation = split_text(whole, config.data.validation_fraction)
    index = index_of(folder.copies, learned, on_note)
    if text is None:
        trained = run if isinstance(run, TrainedModel) else load(folder.path, which=checkpoint)
        written = [
            (
                trained.generate(
                    max_new_tokens=max_new_tokens, temperature=temperature, seed=seed + number
                ),
                seed + number,
            )
            for number in range(samples)
        ]
    else:
        written = [(text, None)]
    found = [(each, number, index.matches(each, at_least)) for each, number in written]
    files = corpus.files() if any(matches for *_, matches in found) else []
    texts = tuple(
        TracedText(
            each,
            index.match_lengths(each, RUNS[0]),
            tuple(passage(whole, files, each, match) for match in matches),
            number,
        )
        for each, number, matches in found
    )
    length = max(1, round(sum(len(each.text) for each in texts) / len(texts)))
    return Trace(
        run=str(folder.path),
        corpus=corpus.source,
        training_characters=len(learned),
        at_least=at_least,
        texts=texts,
        real=yardstick(index, validation, length),
    )


def index_of(folder: Path, text: str, on_note: Callable[[str], None]) -> CopyIndex:
    """The index kept in `folder`, if it is sound and of this text; else a new one, kept there."""
    try:
        return CopyIndex.open(folder, text)
    except CheckpointError as error:
        why = f"{error}; making it anew" if folder.exists() else "making it once"
    on_note(f"indexing {len(text):,} characters of training text in {folder}: {why}")
    index = CopyIndex.build(text)
    try:
        index.save(folder)
    except CheckpointError as error:
        on_note(f"{error}; going on without")
    return index


def yardstick(index: CopyIndex, validation: str, length: int) -> Shares:
    """The shares of evenly spaced stretches of validation text, each `length` characters long."""
    length = min(length, len(validation))
    most = min(MOST_STRETCHES, MOST_CHARACTERS // length, len(validation) // length)
    starts = np.linspace(0, len(validation) - length, max(1, most)).astype(int)
    return Shares.of(
        [index.match_lengths(validation[start : start + length], RUNS[0]) for start in starts]
    )


def passage(corpus: str, files: Sequence[tuple[int, str]], text: str, match: Match) -> Passage:
    """A match with its words, and the place of its first occurrence in the corpus."""
    begin, end = match.position, match.position + match.length
    file_begin, file = files[bisect_right(files, begin, key=lambda place: place[0]) - 1]
    return Passage(
        text=text[match.start : match.end],
        match=match,
        file=file,
        line=1 + corpus.count("\n", file_begin, begin),
        before=corpus[max(file_begin, begin - SURROUNDINGS) : begin],
        after=corpus[end : end + SURROUNDINGS],
    )


def on_one_line(words: str, most: int = 160) -> str:
    """Words with an arrow for each line's end, and with the middle left out where they are long."""
    half = (most - 5) // 2
    shown = words if len(words) <= most else f"{words[:half]} ... {words[-half:]}"
    return "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}".join(shown.split("\n"))


def tinted(piece: str, level: int) -> str:
    """A piece of text in HTML, in the tint of a level."""
    words = html.escape(piece)
    return f'<span style="{TINTS[level]}">{words}</span>' if level else words


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    names = "".join(f"<th>{name}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table>"
