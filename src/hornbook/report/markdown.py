"""The report card and the comparison in Markdown, for a terminal, a notebook or a repository."""

from collections.abc import Iterable, Iterator, Sequence
from math import log

from hornbook.report.card import Card
from hornbook.report.comparison import COLUMNS, Row, cells, remark
from hornbook.report.words import (
    bytes_and_lines,
    copying,
    lede,
    made_from,
    place_of,
    position_names,
    reaching,
    uncertainty,
)


def markdown(card: Card) -> str:
    """The report card of one run."""
    return "\n".join(blocks(card)) + "\n"


def blocks(card: Card) -> Iterator[str]:
    """Its parts, in the order of the page."""
    evaluation, result = card.result.evaluation, card.result
    yield f"# {plain(card.name)}: report card\n"
    yield f"{plain(lede(card))}\n"
    if not result.finished:
        yield (
            f"This run has not ended: {result.steps:,} of {result.trained.config.train.steps:,} "
            "steps are done.\n"
        )
    yield (
        f"**{card.nats_per_char:.4f} nats per character** ({uncertainty(card.confidence)}); "
        f"{evaluation.bits_per_char:.4f} bits per character, {evaluation.bits_per_byte:.4f} bits "
        f"per byte, perplexity {card.perplexity:.3f} per character.\n"
    )
    yield " ".join(card.diagnosis.sentences) + "\n"
    yield from (f"- {advice}" for advice in card.diagnosis.advice)
    yield "\n## On one scale\n"
    yield table(
        ("what predicts", "made of", "nats/char", "bits/char", ""),
        (
            (
                f"**{mark.name}**" if mark.name == "this model" else mark.name,
                mark.kind,
                f"{mark.nats_per_char:.4f}",
                f"{mark.nats_per_char / log(2):.4f}",
                mark.note,
            )
            for mark in card.marks
        ),
    )
    if card.reach is not None:
        yield "## Is it reading far enough back?\n"
        yield f"{reaching(card.reach, card.result.trained.config.model.block_size)}\n"
        names = position_names(card.reach.depths)
        yield table(
            ("tokens of context", "nats/char"),
            (
                (name, f"{each.nats_per_char:.4f}")
                for name, each in zip(names, card.reach.depths, strict=True)
            ),
        )
    yield "## What does it find hard?\n"
    yield table(
        ("kind of character", "of the text", "of the loss", "nats/char", "the best counts"),
        (
            (
                kind.name,
                f"{kind.share_of_text:.1%}",
                f"{kind.share_of_loss:.1%}",
                f"{kind.nats_per_char:.4f}",
                f"{kind.counts_nats_per_char:.4f}",
            )
            for kind in card.kinds
        ),
    )
    yield "## What surprised it most\n"
    for passage in card.passages:
        yield f"{place_of(passage)}, at its worst {passage.mean_nats:.2f} nats/char:\n"
        yield quoted(passage.text)
    yield "## What it writes\n"
    yield f"{copying(card)}\n"
    for sample in card.samples:
        yield f"Temperature {sample.temperature:g}:\n"
        yield quoted(sample.text)
    yield "## What it was made from\n"
    yield table(
        ("", ""),
        ((name, plain(value)) for name, value in (*made_from(card), bytes_and_lines(card))),
    )
    yield "To make it again:\n"
    yield quoted(card.origin.command)


def comparison_markdown(rows: Sequence[Row]) -> str:
    """The comparison as one table."""
    told = remark(rows)
    lines = [f"# {len(rows)} runs compared\n", table(COLUMNS, map(cells, rows))]
    return "\n".join([*lines, *([told] if told else [])]) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars inside its cells are escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return (
        "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |" for row in lines)
        + "\n"
    )


def quoted(text: str) -> str:
    """Text as it stands: indented, so that nothing in it is taken for Markdown."""
    return "\n".join(f"    {line}" for line in text.splitlines()) + "\n"


def plain(text: str) -> str:
    """Text with nothing in it that Markdown or HTML would act upon."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|" else c for c in text)
