"""The report card and the comparison in Markdown, for a terminal, a notebook or a repository."""

from collections.abc import Iterable, Iterator, Sequence
from math import log

from hornbook.report import words
from hornbook.report.card import Card
from hornbook.report.comparison import COLUMNS, Row, cells, remark
from hornbook.report.words import shown


def markdown(card: Card) -> str:
    """The report card of one run."""
    return "\n".join(blocks(card)) + "\n"


def blocks(card: Card) -> Iterator[str]:
    """The sections of the report card, in the order of the page."""
    evaluation, result = card.result.evaluation, card.result
    yield f"# {plain(card.name)}: report card\n"
    yield f"{plain(words.lede(card))}\n"
    if not result.finished:
        yield f"{words.unfinished(card)}\n"
    yield (
        f"**{card.nats_per_char:.4f} nats per character** on {words.measured_on(card)} "
        f"({words.uncertainty(card)}); {evaluation.bits_per_char:.4f} bits per character, "
        f"{evaluation.bits_per_byte:.4f} bits per byte, perplexity {card.perplexity:.3f} per "
        "character.\n"
    )
    if remark := words.split_remarks(card):
        yield f"{plain(remark)}\n"
    yield " ".join(result.diagnosis.sentences) + "\n"
    yield from (f"- {advice}" for advice in result.diagnosis.advice)
    yield "\n## All predictors on one scale\n"
    yield table(
        ("predictor", "kind", "nats/char", "bits/char", ""),
        (
            (
                f"**{each.name}**" if each.name == "this model" else shown(each.name),
                shown(each.kind),
                f"{each.nats_per_char:.4f}",
                f"{each.nats_per_char / log(2):.4f}",
                each.note,
            )
            for each in card.predictors
        ),
    )
    yield f"{words.WHICH}\n"
    if card.context is not None:
        yield "## Loss by context length\n"
        yield f"{words.context_advice(card.context, result.trained.config.model.block_size)}\n"
        rows = (
            (
                f"{each.first}" if each.first == each.last else f"{each.first}–{each.last}",
                f"{each.nats_per_char:.4f}",
            )
            for each in card.context.depths
        )
        yield table(("tokens of context", "nats/char"), rows)
    yield "## Loss by kind of character\n"
    heads = ("kind of character", "of the text", "of the loss", "nats/char", "n-gram counts")
    rows = (
        (
            kind.name,
            *(f"{share:.1%}" for share in (kind.share_of_text, kind.share_of_loss)),
            *(f"{nats:.4f}" for nats in (kind.nats_per_char, kind.counts_nats_per_char)),
        )
        for kind in card.kinds
    )
    yield table(heads, rows)
    yield "## Highest loss\n"
    for passage in card.passages:
        yield f"{words.place_of(passage)}, at its worst {passage.mean_nats:.2f} nats/char:\n"
        yield quoted(passage.text)
    yield "## Generated text\n"
    yield f"{words.copying(card)}\n"
    yield f"{words.SAMPLES_FOLLOW}\n"
    for traced in card.samples:
        yield f"Temperature {traced.temperature:g}:\n"
        yield quoted(str(traced.sample))
    yield "## How it was made\n"
    yield table(("", ""), ((name, plain(value)) for name, value in words.made_from(card)))
    yield "Command to reproduce it:\n"
    yield quoted(card.origin.command)


def comparison_markdown(rows: Sequence[Row]) -> str:
    """The comparison as one table."""
    parts = (f"# {len(rows)} runs compared\n", table(COLUMNS, map(cells, rows)), remark(rows))
    return "\n".join(filter(None, parts)) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; vertical bars in its cells are escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return (
        "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |" for row in lines)
        + "\n"
    )


def quoted(text: str) -> str:
    """Text indented as code, so that it is not interpreted as Markdown."""
    return "\n".join(f"    {line}" for line in text.splitlines()) + "\n"


def plain(text: str) -> str:
    """Text with the characters escaped that Markdown or HTML would interpret."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|" else c for c in text)
