"""The report card as one HTML page: no script, nothing loaded from anywhere."""

from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from math import log
from string import Template

from hornbook import __version__
from hornbook.report.card import COPY_LENGTHS, Card, Sample
from hornbook.report.drawing import Level, Line, bar, chart, legend, thinned
from hornbook.report.reading import Passage
from hornbook.report.words import (
    bytes_and_lines,
    copying,
    lede,
    made_from,
    place_of,
    reaching,
    settings_lines,
    uncertainty,
)

MOST_LETTERS = 100
# The shades of surprise, in shares of what knowing nothing would cost: with 65 letters, whose blind
# guess costs 6 bits, from 2 bits on, 3, 5, 7 and 9; with 1,300 Hangul syllables from 3 to 16.
SURPRISES = (1 / 3, 1 / 2, 5 / 6, 7 / 6, 3 / 2)
COPIED_CHARACTERS = (10, *COPY_LENGTHS)


def page(title: str, body: str) -> str:
    """A whole page around a body of HTML."""
    here = files("hornbook.report")
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        version=escape(__version__),
        style=(here / "style.css").read_text(encoding="utf-8"),
        body=body,
    )


def html(card: Card) -> str:
    """The report card of one run."""
    sections = (
        scale(card),
        learning(card),
        depth(card),
        by_kind(card),
        surprises(card),
        writing(card),
        making(card),
    )
    body = header(card) + "".join(
        f"<section>{section}</section>\n" for section in sections if section
    )
    return page(f"{card.name}: report card", body)


def letters(alphabet: Sequence[str]) -> str:
    """The row of letters over the page, as on a hornbook: a cross, then all that it knows."""
    shown = " ".join(alphabet[:MOST_LETTERS])
    left = len(alphabet) - MOST_LETTERS
    more = f' <span class="more">and {left:,} more</span>' if left > 0 else ""
    return (
        f'<p class="letters" aria-label="the characters of the text">✠ {visible(shown)}{more}</p>'
    )


def header(card: Card) -> str:
    """Name, headline figure, verdict."""
    evaluation, diagnosis = card.result.evaluation, card.diagnosis
    units = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>"
        for name, value in (
            ("bits per character", f"{evaluation.bits_per_char:.3f}"),
            ("bits per byte", f"{evaluation.bits_per_byte:.3f}"),
            ("perplexity per character", f"{card.perplexity:.2f}"),
        )
    )
    unfinished = (
        ""
        if card.result.finished
        else f'<p class="alert">This run has not ended: {card.result.steps:,} of '
        f"{card.result.trained.config.train.steps:,} steps are done. The figures are those of its "
        f"checkpoint at step {card.result.step:,}.</p>"
    )
    said = " ".join(escape(sentence) for sentence in diagnosis.sentences[1:])
    first = escape(diagnosis.sentences[0])
    head, colon, rest = first.partition(":")
    verdict = f"<strong>{head}{colon}</strong>{rest}" if colon else first
    return f"""{letters(card.origin.alphabet)}
<header>
<p class="eyebrow">Report card</p>
<h1>{visible(card.name)}</h1>
<p class="lede">{visible(lede(card))}</p>
{unfinished}
<div class="headline">
<div><div class="big">{card.nats_per_char:.3f}</div>
<div class="unit">nats per character on text it has never seen<br>
{escape(uncertainty(card.confidence))}</div></div>
<dl class="units">{units}</dl>
</div>
<p class="verdict">{verdict} {said}</p>
</header>
"""


def scale(card: Card) -> str:
    """Everything that predicts this text, from the best to knowing nothing, on one axis."""
    worst = max(mark.nats_per_char for mark in card.marks)
    rows = "".join(
        f"<tr{' class=mine' if mark.name == 'this model' else ''}>"
        f'<th scope="row">{escape(mark.name)} <small>{escape(mark.kind)}</small></th>'
        f'<td class="wide">{bar(mark.nats_per_char / worst, style_of(mark.kind))}</td>'
        f'<td class="number">{mark.nats_per_char:.3f}</td>'
        f'<td class="number optional">{mark.nats_per_char / log(2):.3f}</td></tr>'
        for mark in card.marks
    )
    notes = "; ".join(f"{mark.name}: {mark.note}" for mark in card.marks if mark.note)
    return f"""<h2>On one scale</h2>
<p class="hint">All on the same validation text; shorter is better. Compressors were given the
training text first, and pay for every bit that they then still need.</p>
<table class="scale"><thead><tr><th></th><th></th>
<th class="number">nats/char</th><th class="number optional">bits/char</th></tr></thead>
<tbody>{rows}</tbody></table>
<p class="hint">{escape(notes)}.</p>"""


def learning(card: Card) -> str:
    """The curves, and what to try next."""
    advice = "".join(f"<li>{command_in(line)}</li>" for line in card.diagnosis.advice)
    advice = f'<h3>What to try next</h3><ul class="next">{advice}</ul>' if advice else ""
    if not card.points:
        return f"<h2>How it learned</h2><p>{escape(card.diagnosis.sentences[0])}</p>{advice}"
    per_char = card.result.tokens_per_char
    lines = [
        Line(
            "training batches",
            thinned([(step, loss * per_char) for step, loss in card.training_losses]),
            "training",
            framed=False,
        ),
        Line(
            "validation",
            [(point.step, point.validation * per_char) for point in card.points],
            "validation",
            dots=len(card.points) <= 40,
        ),
    ]
    levels = [
        Level(f"{mark.name} {mark.nats_per_char:.3f}", mark.nats_per_char)
        for mark in card.marks
        if mark.kind == "counts" and mark.name not in ("this model", "unigram counts")
    ]
    drawn = chart(
        lines,
        levels,
        description=f"Loss by step; the best validation loss is at step {card.result.step}.",
        x_label="step",
    )
    return f"""<h2>How it learned</h2>
<p>The best weights, those of step {card.result.step:,}, are the ones kept and measured here.</p>
<figure>{legend(lines)}{drawn}</figure>{advice}"""


def depth(card: Card) -> str:
    """Loss by how much was read before."""
    if card.reach is None or len(card.reach.depths) < 2:
        return ""
    depths = card.reach.depths
    line = Line(
        "loss",
        [(each.first, each.nats_per_char) for each in depths],
        "validation",
        dots=True,
        spread=[each.noise for each in depths],
    )
    drawn = chart(
        [line],
        description="Loss by how many tokens of context there are.",
        x_label="tokens of context, from",
        doubling_x=True,
        x_names=[f"{each.first}" for each in depths],
    )
    return f"""<h2>Is it reading far enough back?</h2>
<p>{escape(reaching(card.reach, card.result.trained.config.model.block_size))}</p>
<figure>{drawn}</figure>"""


def by_kind(card: Card) -> str:
    """Loss by kind of character."""
    worst = max(max(kind.nats_per_char, kind.counts_nats_per_char) for kind in card.kinds) or 1
    style = style_of(card.result.kind)
    counts = f"{card.result.baselines.ngram_order}-gram counts"
    rows = "".join(
        f'<tr><th scope="row">{escape(kind.name)}</th>'
        f'<td class="number">{kind.share_of_text:.1%}</td>'
        f'<td class="number">{kind.share_of_loss:.1%}</td>'
        f'<td class="wide">{bar(kind.nats_per_char / worst, style)}</td>'
        f'<td class="number">{kind.nats_per_char:.3f}</td>'
        f'<td class="number optional">{kind.counts_nats_per_char:.3f}</td></tr>'
        for kind in card.kinds
    )
    return f"""<h2>What does it find hard?</h2>
<p class="hint">Where its loss comes from, by kind of character: what costs most stands first.</p>
<table class="kinds"><thead><tr><th></th><th class="number">of the text</th>
<th class="number">of the loss</th><th></th><th class="number">nats/char</th>
<th class="number optional">{counts}</th></tr></thead><tbody>{rows}</tbody></table>"""


def surprises(card: Card) -> str:
    """The most surprising passages, coloured."""
    bits = surprise_bits(card)
    edges = (
        f"under {bits[0]:g}",
        *(f"{edge:g}" for edge in bits[:-1]),
        f"{bits[-1]:g} bits and more",
    )
    shades = "".join(f'<span class="s{i}">{edge}</span>' for i, edge in enumerate(edges))
    found = "".join(coloured_passage(passage, card) for passage in card.passages)
    return f"""<h2>What surprised it most</h2>
<p class="hint">Each character of the validation text, coloured by how surprised the model was
to meet it. A bit is the surprise of a coin.</p>
<p class="shades">{shades}</p>
{found}
<h3>For comparison <span>an ordinary passage: {place_of(card.ordinary).lower()}</span></h3>
{surprise_text(card.ordinary, bits)}"""


def coloured_passage(passage: Passage, card: Card) -> str:
    """A passage with its place and how hard it was."""
    times = passage.mean_nats / card.nats_per_char if card.nats_per_char else 0
    return (
        f"<h3>{place_of(passage)} <span>at its worst {passage.mean_nats:.2f} nats/char, "
        f"{times:.1f} times the usual</span></h3>{surprise_text(passage, surprise_bits(card))}"
    )


def surprise_bits(card: Card) -> list[float]:
    """From how many bits on each shade stands for, in halves."""
    blind = card.result.baselines.uniform / log(2)
    return [max(0.5, round(2 * share * blind) / 2) for share in SURPRISES]


def surprise_text(passage: Passage, bits: Sequence[float]) -> str:
    """The passage's characters in the colours of their surprise."""
    shades = [sum(nats / log(2) >= edge for edge in bits) for nats in passage.nats]
    return coloured(passage.text, shades, "s")


def writing(card: Card) -> str:
    """Samples at three temperatures, coloured by what is copied."""
    edges = ("its own", "10", "20", "50", "100 characters and more word for word")
    shades = "".join(f'<span class="c{i}">{edge}</span>' for i, edge in enumerate(edges))
    samples = "".join(sample_text(sample) for sample in card.samples)
    return f"""<h2>What it writes</h2>
<p>{escape(copying(card))}</p>
<p class="hint">Each character is coloured by the length of the longest stretch around it that
stands word for word in the training text.</p>
<p class="shades">{shades}</p>
{samples}"""


def sample_text(sample: Sample) -> str:
    """One sample."""
    lengths = [sum(n >= edge for edge in COPIED_CHARACTERS) for n in sample.match_lengths]
    return (
        f"<h3>Temperature {sample.temperature:g} <span>{sample.share_copied(20):.1%} in copies of "
        f"20 characters or more, {sample.share_copied(50):.1%} of 50</span></h3>"
        + coloured(sample.text, lengths, "c")
    )


def making(card: Card) -> str:
    """Text, settings, machine, and the command that makes it again."""
    facts = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{visible(value)}</td></tr>'
        for name, value in (*made_from(card), bytes_and_lines(card))
    )
    settings = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{visible(value)}</td></tr>'
        for name, value in settings_lines(card)
    )
    return f"""<h2>What it was made from</h2>
<table class="facts"><tbody>{facts}</tbody></table>
<h3>To make it again</h3>
<pre class="command">{visible(card.origin.command)}</pre>
<details><summary>All settings and versions</summary>
<table class="facts"><tbody>{settings}</tbody></table></details>"""


def style_of(kind: str) -> str:
    """The class of the style sheet for what a figure was made by."""
    return kind.replace(" ", "-")


def command_in(line: str) -> str:
    """Advice with its setting set as code."""
    words = (
        f"<code>{escape(word)}</code>"
        if word.startswith(("--", "n_", "dropout="))
        else escape(word)
        for word in line.split(" ")
    )
    return " ".join(words).replace("</code> <code>", " ")


def coloured(text: str, shades: Sequence[int], prefix: str) -> str:
    """Text in spans of one class each; the class's number is the shade."""
    return f'<div class="text" dir="auto">{"".join(spans(text, shades, prefix))}</div>'


def spans(text: str, shades: Sequence[int], prefix: str) -> Iterator[str]:
    """Neighbours of the same shade together; a line end shows that it is one."""
    for shade, pairs in groupby(zip(shades, text, strict=True), key=lambda pair: pair[0]):
        piece = visible("".join(character for _, character in pairs))
        # The end of a line has a colour of its own, and no width to show it by.
        piece = piece.replace("\n", "↵\n") if shade else piece
        yield f'<span class="{prefix}{shade}">{piece}</span>' if shade else piece


def visible(text: str) -> str:
    """Text fit to stand in a page: escaped, and what HTML forbids shown by a stand-in."""
    kept = "".join(
        c
        if c in "\n\t" or (ord(c) >= 32 and not 0x7F <= ord(c) < 0xA0 and not unpaired(c))
        else "�"
        for c in text
    )
    return escape(kept)


def unpaired(character: str) -> bool:
    """Half a surrogate pair, or a code point that is no character: HTML allows neither."""
    code = ord(character)
    return 0xD800 <= code < 0xE000 or 0xFDD0 <= code < 0xFDF0 or code & 0xFFFE == 0xFFFE
