"""The report card as one HTML page, without scripts; it loads nothing from the network."""

from collections.abc import Iterable, Sequence
from html import escape
from math import log

from hornbook.eval.diagnosis import predictor
from hornbook.language import Language, speaking, tr, translated
from hornbook.report import words
from hornbook.report.card import COPY_LENGTHS, Card, TracedSample, shares_copied
from hornbook.report.characters import Passage
from hornbook.report.drawing import Line, bar, chart, legend, thinned
from hornbook.report.markup import coloured, document, style_of, visible
from hornbook.report.words import kind_name, place_of, shown

MOST_LETTERS = 100
# The lower edges of the shades of loss, as shares of the uniform guess's: 2, 3, 5, 7 and 9 bits for
# 65 letters, whose uniform guess costs 6 bits; 3 to 16 for 1,300 Hangul syllables.
LOSS_SHADES = (1 / 3, 1 / 2, 5 / 6, 7 / 6, 3 / 2)
COPIED_CHARACTERS = (10, *COPY_LENGTHS)


def html(card: Card, language: Language = "en") -> str:
    """The report card of one run."""
    parts = (scale, training, by_context, by_kind, highest_loss, generated, making)
    with speaking(language):
        sections = filter(None, (part(card) for part in parts))
        body = "".join(f"<section>{section}</section>\n" for section in sections)
        return document(tr("{name}: report card", name=card.name), header(card) + body)


def letters(alphabet: Sequence[str]) -> str:
    """The alphabet above the page, after a cross, as on a hornbook."""
    row = " ".join(alphabet[:MOST_LETTERS])
    left = len(alphabet) - MOST_LETTERS
    more = (
        f' <span class="more">{tr("and {number:,} more", number=left)}</span>' if left > 0 else ""
    )
    label = tr("the characters of the text")
    return f'<p class="letters" aria-label="{label}">✠ {visible(row)}{more}</p>'


def header(card: Card) -> str:
    """The name, the headline figure and the verdict."""
    evaluation, diagnosis = card.result.evaluation, card.result.diagnosis
    units = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>"
        for name, value in (
            (tr("bits per character"), f"{evaluation.bits_per_char:.3f}"),
            (tr("bits per byte"), f"{evaluation.bits_per_byte:.3f}"),
            (tr("perplexity per character"), f"{card.perplexity:.2f}"),
        )
    )
    unfinished = ""
    if not card.result.finished:
        unfinished = f'<p class="alert">{translated(words.unfinished(card))}</p>'
    remarks = translated(words.split_remarks(card))
    first, *others = (escape(translated(sentence)) for sentence in diagnosis.sentences)
    details = " ".join(others)
    measured = tr(
        "nats per character on {text}<br>\n{interval}",
        text=words.measured_on(card),
        interval=escape(translated(words.uncertainty(card))),
    )
    head, colon, rest = first.partition(":")
    verdict = f"<strong>{head}{colon}</strong>{rest}" if colon else first
    return f"""{letters(card.origin.alphabet)}
<header>
<p class="eyebrow">{tr("Report card")}</p>
<h1>{visible(card.name)}</h1>
<p class="lede">{visible(translated(words.lede(card)))}</p>
{page_link(card)}
{unfinished}
<div class="headline">
<div><div class="big">{card.nats_per_char:.3f}</div>
<div class="unit">{measured}</div></div>
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
    link = tr("See through it")
    return f'<p><a href="{page.name}">{link}</a>: {tr("this model in a page that runs it.")}</p>'


def scale(card: Card) -> str:
    """All predictors of this text on one axis, from the best to the uniform guess."""
    worst = max(each.nats_per_char for each in card.predictors)
    rows = "".join(
        f'<tr{" class=mine" if each.name == "this model" else ""}><th scope="row">'
        f"{label(each.name)} <small>{label(each.kind)}</small></th>"
        f'<td class="wide">{bar(each.nats_per_char / worst, style_of(each.kind))}</td>'
        f'<td class="number">{each.nats_per_char:.3f}</td>'
        f'<td class="number optional">{each.nats_per_char / log(2):.3f}</td></tr>'
        for each in card.predictors
    )
    notes = "; ".join(
        f"{label(each.name)}: {escape(translated(each.note))}"
        for each in card.predictors
        if each.note
    )
    how = tr(
        "All predict the same validation text; shorter is better. Compressors get the\n"
        "training text first; their loss is the bits that they then still need."
    )
    nats, bits = tr("nats/char"), tr("bits/char")
    return f"""<h2>{tr("All predictors on one scale")}</h2>
<p class="hint">{how} {escape(translated(words.WHICH))}</p>
<table class="scale"><thead><tr><th></th><th></th>
<th class="number">{nats}</th><th class="number optional">{bits}</th></tr></thead>
<tbody>{rows}</tbody></table>
<p class="hint">{notes}.</p>"""


def training(card: Card) -> str:
    """The loss curves, and advice on what to try next."""
    diagnosis = card.result.diagnosis
    advice = "".join(f"<li>{command_in(translated(line))}</li>" for line in diagnosis.advice)
    if advice:
        advice = f'<h3>{tr("What to try next")}</h3><ul class="next">{advice}</ul>'
    heading = tr("Loss during training")
    if diagnosis.verdict == "counted":
        return advice
    if not card.points:
        return f"<h2>{heading}</h2><p>{tr('There was no evaluation.')}</p>{advice}"
    per_char = card.result.tokens_per_char
    batches = thinned([(step, loss * per_char) for step, loss in card.training_losses])
    validation = [(point.step, point.validation * per_char) for point in card.points]
    lines = [
        Line(tr("training batches"), batches, "training", framed=False),
        Line(tr("validation"), validation, "validation", dots=len(card.points) <= 40),
    ]
    levels = [
        (f"{translated(predictor(each.name))} {each.nats_per_char:.3f}", each.nats_per_char)
        for each in card.predictors
        if each.kind == "counts"
        and not each.name.startswith("this model")
        and each.name != "unigram counts"
    ]
    best = card.result.step
    description = tr("Loss by step; the best validation loss is at step {step}.", step=best)
    drawn = chart(
        lines,
        levels,
        description=description,
        x_label=tr("step"),
        y_label=tr("nats per character"),
    )
    kept = tr(
        "The weights of step {step:,} have the lowest validation loss. They are kept, and this\n"
        "page measures them.",
        step=best,
    )
    return f"""<h2>{heading}</h2>
<p>{kept}</p>
<figure>{legend(lines)}{drawn}</figure>{advice}"""


def by_context(card: Card) -> str:
    """The loss by context length."""
    if card.context is None or len(card.context.depths) < 2:
        return ""
    depths = card.context.depths
    points = [(each.first, each.nats_per_char) for each in depths]
    noise = [each.noise for each in depths]
    line = Line(tr("loss"), points, "validation", dots=True, spread=noise)
    drawn = chart(
        [line],
        description=tr("Loss by the number of tokens of context."),
        x_label=tr("tokens of context, from"),
        y_label=tr("nats per character"),
        doubling_x=True,
        x_names=[f"{each.first}" for each in depths],
    )
    block_size = card.result.trained.config.model.block_size
    return f"""<h2>{tr("Loss by context length")}</h2>
<p>{escape(translated(words.context_advice(card.context, block_size)))}</p>
<figure>{drawn}</figure>"""


def by_kind(card: Card) -> str:
    """The loss by kind of character."""
    worst = max(max(kind.nats_per_char, kind.counts_nats_per_char) for kind in card.kinds) or 1
    style = style_of(card.result.kind)
    counts = label(f"{card.result.baselines.ngram_order}-gram counts")
    rows = "".join(
        f'<tr><th scope="row">{escape(kind_name(kind.name))}</th>'
        f'<td class="number">{kind.share_of_text:.1%}</td>'
        f'<td class="number">{kind.share_of_loss:.1%}</td>'
        f'<td class="wide">{bar(kind.nats_per_char / worst, style)}</td>'
        f'<td class="number">{kind.nats_per_char:.3f}</td>'
        f'<td class="number optional">{kind.counts_nats_per_char:.3f}</td></tr>'
        for kind in card.kinds
    )
    return f"""<h2>{tr("Loss by kind of character")}</h2>
<p class="hint">{tr("The kind of character with the largest share of the loss comes first.")}</p>
<table class="kinds"><thead><tr><th></th><th class="number">{tr("of the text")}</th>
<th class="number">{tr("of the loss")}</th><th></th><th class="number">{tr("nats/char")}</th>
<th class="number optional">{counts}</th></tr></thead><tbody>{rows}</tbody></table>"""


def highest_loss(card: Card) -> str:
    """The passages with the highest loss, and an ordinary one."""
    bits = shade_bits(card)
    between = (f"{edge:g}" for edge in bits[:-1])
    least = tr("under {bits:g}", bits=bits[0])
    edges = (least, *between, tr("{bits:g} bits and more", bits=bits[-1]))
    shades = "".join(f'<span class="s{i}">{edge}</span>' for i, edge in enumerate(edges))
    found = "".join(coloured_passage(passage, card) for passage in card.passages)
    hint = tr(
        "Passages of the validation text, each character coloured by its loss. One bit is the\n"
        "surprise of a coin toss."
    )
    ordinary = tr("an ordinary passage: {place}", place=translated(place_of(card.ordinary)).lower())
    return f"""<h2>{tr("Highest loss")}</h2>
<p class="hint">{hint}</p>
<p class="shades">{shades}</p>
{found}
<h3>{tr("For comparison")} <span>{ordinary}</span></h3>
{coloured_by_loss(card.ordinary, bits)}"""


def coloured_passage(passage: Passage, card: Card) -> str:
    """A passage with its line and its loss."""
    times = passage.mean_nats / card.nats_per_char if card.nats_per_char else 0
    worst = tr(
        "at its worst {loss:.2f} nats/char, {times:.1f} times the mean",
        loss=passage.mean_nats,
        times=times,
    )
    return (
        f"<h3>{translated(place_of(passage))} <span>{worst}</span></h3>"
        f"{coloured_by_loss(passage, shade_bits(card))}"
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
    edges = (tr("its own"), "10", "20", "50", tr("100 characters or more copied"))
    shades = "".join(f'<span class="c{i}">{edge}</span>' for i, edge in enumerate(edges))
    samples = "".join(sample_text(sample) for sample in card.samples)
    colours = tr(
        "Each character is coloured by the length of the longest\n"
        "stretch around it that occurs verbatim in the training text."
    )
    return f"""<h2>{tr("Generated text")}</h2>
<p>{escape(translated(words.copying(card)))}</p>
<p class="hint">{translated(words.SAMPLES_FOLLOW)} {colours}</p>
<p class="shades">{shades}</p>
{samples}"""


def sample_text(traced: TracedSample) -> str:
    """One sample, coloured by the length of its matches."""
    lengths = [sum(n >= edge for edge in COPIED_CHARACTERS) for n in traced.match_lengths]
    shares = shares_copied(traced.match_lengths)
    heading = tr("Temperature {temperature:g}", temperature=traced.temperature)
    copied = tr(
        "{short:.1%} in matches of 20+ characters, {long:.1%} of 50+",
        short=shares[20],
        long=shares[50],
    )
    return (
        f"<h3>{heading} <span>{copied}</span></h3>"
        f"{coloured(traced.sample.text, lengths, 'c', traced.sample.bracketed)}"
    )


def making(card: Card) -> str:
    """The text, the settings, the machine, and the command that reproduces the run."""

    def rows(facts: Iterable[tuple[str, str]]) -> str:
        return "".join(
            f'<tr><th scope="row">{escape(translated(name))}</th>'
            f"<td>{visible(translated(value))}</td></tr>"
            for name, value in facts
        )

    return f"""<h2>{tr("How it was made")}</h2>
<table class="facts"><tbody>{rows(words.made_from(card))}</tbody></table>
<h3>{tr("Command to reproduce it")}</h3>
<pre class="command">{visible(card.origin.command)}</pre>
<details><summary>{tr("All settings and versions")}</summary>
<table class="facts"><tbody>{rows(words.settings_lines(card))}</tbody></table></details>"""


def label(name: str) -> str:
    """A predictor or kind of the JSON, as the page shows it."""
    return escape(translated(shown(name)))


def command_in(line: str) -> str:
    """Advice in HTML, with its options as code."""
    words = (
        f"<code>{escape(word)}</code>"
        if word.startswith(("--", "n_", "dropout="))
        else escape(word)
        for word in line.split(" ")
    )
    return " ".join(words).replace("</code> <code>", " ")
