"""The report card as one HTML page, without scripts; it loads nothing from the network."""

from collections.abc import Iterable, Sequence
from html import escape
from math import log

from hornbook.report import words
from hornbook.report.card import COPY_LENGTHS, Card, TracedSample, shares_copied
from hornbook.report.characters import Passage
from hornbook.report.drawing import Line, bar, chart, legend, thinned
from hornbook.report.markup import coloured, document, style_of, visible
from hornbook.report.words import place_of, shown

MOST_LETTERS = 100
# The lower edges of the shades of loss, as shares of the uniform guess's: 2, 3, 5, 7 and 9 bits for
# 65 letters, whose uniform guess costs 6 bits; 3 to 16 for 1,300 Hangul syllables.
LOSS_SHADES = (1 / 3, 1 / 2, 5 / 6, 7 / 6, 3 / 2)
COPIED_CHARACTERS = (10, *COPY_LENGTHS)


def html(card: Card) -> str:
    """The report card of one run."""
    parts = (scale, training, by_context, by_kind, highest_loss, generated, making)
    sections = filter(None, (part(card) for part in parts))
    body = "".join(f"<section>{section}</section>\n" for section in sections)
    return document(f"{card.name}: report card", header(card) + body)


def letters(alphabet: Sequence[str]) -> str:
    """The alphabet above the page, after a cross, as on a hornbook."""
    row = " ".join(alphabet[:MOST_LETTERS])
    left = len(alphabet) - MOST_LETTERS
    more = f' <span class="more">and {left:,} more</span>' if left > 0 else ""
    return f'<p class="letters" aria-label="the characters of the text">✠ {visible(row)}{more}</p>'


def header(card: Card) -> str:
    """The name, the headline figure and the verdict."""
    evaluation, diagnosis = card.result.evaluation, card.result.diagnosis
    units = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>"
        for name, value in (
            ("bits per character", f"{evaluation.bits_per_char:.3f}"),
            ("bits per byte", f"{evaluation.bits_per_byte:.3f}"),
            ("perplexity per character", f"{card.perplexity:.2f}"),
        )
    )
    unfinished = "" if card.result.finished else f'<p class="alert">{words.unfinished(card)}</p>'
    remarks = words.split_remarks(card)
    details = " ".join(escape(sentence) for sentence in diagnosis.sentences[1:])
    first = escape(diagnosis.sentences[0])
    head, colon, rest = first.partition(":")
    verdict = f"<strong>{head}{colon}</strong>{rest}" if colon else first
    return f"""{letters(card.origin.alphabet)}
<header>
<p class="eyebrow">Report card</p>
<h1>{visible(card.name)}</h1>
<p class="lede">{visible(words.lede(card))}</p>
{page_link(card)}
{unfinished}
<div class="headline">
<div><div class="big">{card.nats_per_char:.3f}</div>
<div class="unit">nats per character on {words.measured_on(card)}<br>
{escape(words.uncertainty(card))}</div></div>
<dl class="units">{units}</dl>
</div>
{f'<p class="alert">{visible(remarks)}</p>' if remarks else ""}
<p class="verdict">{verdict} {details}</p>
</header>
"""


def page_link(card: Card) -> str:
    """A link to the page that runs the model, where the run has one."""
    page = card.result.folder.page
    if not page.is_file():
        return ""
    return f'<p><a href="{page.name}">See through it</a>: this model in a page that runs it.</p>'


def scale(card: Card) -> str:
    """All predictors of this text on one axis, from the best to the uniform guess."""
    worst = max(each.nats_per_char for each in card.predictors)
    rows = "".join(
        f'<tr{" class=mine" if each.name == "this model" else ""}><th scope="row">'
        f"{escape(shown(each.name))} <small>{escape(shown(each.kind))}</small></th>"
        f'<td class="wide">{bar(each.nats_per_char / worst, style_of(each.kind))}</td>'
        f'<td class="number">{each.nats_per_char:.3f}</td>'
        f'<td class="number optional">{each.nats_per_char / log(2):.3f}</td></tr>'
        for each in card.predictors
    )
    notes = "; ".join(f"{shown(each.name)}: {each.note}" for each in card.predictors if each.note)
    return f"""<h2>All predictors on one scale</h2>
<p class="hint">All predict the same validation text; shorter is better. Compressors get the
training text first; their loss is the bits that they then still need. {escape(words.WHICH)}</p>
<table class="scale"><thead><tr><th></th><th></th>
<th class="number">nats/char</th><th class="number optional">bits/char</th></tr></thead>
<tbody>{rows}</tbody></table>
<p class="hint">{escape(notes)}.</p>"""


def training(card: Card) -> str:
    """The loss curves, and advice on what to try next."""
    diagnosis = card.result.diagnosis
    advice = "".join(f"<li>{command_in(line)}</li>" for line in diagnosis.advice)
    advice = f'<h3>What to try next</h3><ul class="next">{advice}</ul>' if advice else ""
    if diagnosis.verdict == "counted":
        return advice
    if not card.points:
        return f"<h2>Loss during training</h2><p>There was no evaluation.</p>{advice}"
    per_char = card.result.tokens_per_char
    batches = thinned([(step, loss * per_char) for step, loss in card.training_losses])
    validation = [(point.step, point.validation * per_char) for point in card.points]
    lines = [
        Line("training batches", batches, "training", framed=False),
        Line("validation", validation, "validation", dots=len(card.points) <= 40),
    ]
    levels = [
        (f"{each.name} {each.nats_per_char:.3f}", each.nats_per_char)
        for each in card.predictors
        if each.kind == "counts"
        and not each.name.startswith("this model")
        and each.name != "unigram counts"
    ]
    description = f"Loss by step; the best validation loss is at step {card.result.step}."
    drawn = chart(lines, levels, description=description, x_label="step")
    return f"""<h2>Loss during training</h2>
<p>The weights of step {card.result.step:,} have the lowest validation loss. They are kept, and this
page measures them.</p>
<figure>{legend(lines)}{drawn}</figure>{advice}"""


def by_context(card: Card) -> str:
    """The loss by context length."""
    if card.context is None or len(card.context.depths) < 2:
        return ""
    depths = card.context.depths
    points = [(each.first, each.nats_per_char) for each in depths]
    noise = [each.noise for each in depths]
    line = Line("loss", points, "validation", dots=True, spread=noise)
    drawn = chart(
        [line],
        description="Loss by the number of tokens of context.",
        x_label="tokens of context, from",
        doubling_x=True,
        x_names=[f"{each.first}" for each in depths],
    )
    return f"""<h2>Loss by context length</h2>
<p>{escape(words.context_advice(card.context, card.result.trained.config.model.block_size))}</p>
<figure>{drawn}</figure>"""


def by_kind(card: Card) -> str:
    """The loss by kind of character."""
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
    return f"""<h2>Loss by kind of character</h2>
<p class="hint">The kind of character with the largest share of the loss comes first.</p>
<table class="kinds"><thead><tr><th></th><th class="number">of the text</th>
<th class="number">of the loss</th><th></th><th class="number">nats/char</th>
<th class="number optional">{counts}</th></tr></thead><tbody>{rows}</tbody></table>"""


def highest_loss(card: Card) -> str:
    """The passages with the highest loss, and an ordinary one."""
    bits = shade_bits(card)
    between = (f"{edge:g}" for edge in bits[:-1])
    edges = (f"under {bits[0]:g}", *between, f"{bits[-1]:g} bits and more")
    shades = "".join(f'<span class="s{i}">{edge}</span>' for i, edge in enumerate(edges))
    found = "".join(coloured_passage(passage, card) for passage in card.passages)
    return f"""<h2>Highest loss</h2>
<p class="hint">Passages of the validation text, each character coloured by its loss. One bit is the
surprise of a coin toss.</p>
<p class="shades">{shades}</p>
{found}
<h3>For comparison <span>an ordinary passage: {place_of(card.ordinary).lower()}</span></h3>
{coloured_by_loss(card.ordinary, bits)}"""


def coloured_passage(passage: Passage, card: Card) -> str:
    """A passage with its line and its loss."""
    times = passage.mean_nats / card.nats_per_char if card.nats_per_char else 0
    return (
        f"<h3>{place_of(passage)} <span>at its worst {passage.mean_nats:.2f} nats/char, "
        f"{times:.1f} times the mean</span></h3>{coloured_by_loss(passage, shade_bits(card))}"
    )


def shade_bits(card: Card) -> list[float]:
    """The lower edge of each shade in bits, rounded to halves."""
    uniform = card.result.baselines.uniform / log(2)
    return [max(0.5, round(2 * share * uniform) / 2) for share in LOSS_SHADES]


def coloured_by_loss(passage: Passage, bits: Sequence[float]) -> str:
    """The passage, each character coloured by its loss."""
    shades = [sum(nats / log(2) >= edge for edge in bits) for nats in passage.nats]
    return coloured(passage.text, shades, "s")


def generated(card: Card) -> str:
    """Samples at three temperatures, coloured by what is copied."""
    edges = ("its own", "10", "20", "50", "100 characters or more copied")
    shades = "".join(f'<span class="c{i}">{edge}</span>' for i, edge in enumerate(edges))
    samples = "".join(sample_text(sample) for sample in card.samples)
    return f"""<h2>Generated text</h2>
<p>{escape(words.copying(card))}</p>
<p class="hint">{words.SAMPLES_FOLLOW} Each character is coloured by the length of the longest
stretch around it that occurs verbatim in the training text.</p>
<p class="shades">{shades}</p>
{samples}"""


def sample_text(traced: TracedSample) -> str:
    """One sample, coloured by the length of its matches."""
    lengths = [sum(n >= edge for edge in COPIED_CHARACTERS) for n in traced.match_lengths]
    shares = shares_copied(traced.match_lengths)
    return (
        f"<h3>Temperature {traced.temperature:g} <span>{shares[20]:.1%} in matches of 20+ "
        f"characters, {shares[50]:.1%} of 50+</span></h3>"
        f"{coloured(traced.sample.text, lengths, 'c', traced.sample.bracketed)}"
    )


def making(card: Card) -> str:
    """The text, the settings, the machine, and the command that reproduces the run."""

    def rows(facts: Iterable[tuple[str, str]]) -> str:
        return "".join(
            f'<tr><th scope="row">{escape(name)}</th><td>{visible(value)}</td></tr>'
            for name, value in facts
        )

    return f"""<h2>How it was made</h2>
<table class="facts"><tbody>{rows(words.made_from(card))}</tbody></table>
<h3>Command to reproduce it</h3>
<pre class="command">{visible(card.origin.command)}</pre>
<details><summary>All settings and versions</summary>
<table class="facts"><tbody>{rows(words.settings_lines(card))}</tbody></table></details>"""


def command_in(line: str) -> str:
    """Advice in HTML, with its options as code."""
    words = (
        f"<code>{escape(word)}</code>"
        if word.startswith(("--", "n_", "dropout="))
        else escape(word)
        for word in line.split(" ")
    )
    return " ".join(words).replace("</code> <code>", " ")
