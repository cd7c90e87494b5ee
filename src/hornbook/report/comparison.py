"""The comparison of several report cards: one table and one chart."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log

from hornbook.language import Language, msg, speaking, tr, translated
from hornbook.report.card import Card
from hornbook.report.characters import CharacterLosses
from hornbook.report.confidence import Interval, interval
from hornbook.report.drawing import Line, bar, chart, legend
from hornbook.report.markup import document, style_of, visible
from hornbook.report.words import VERDICTS, duration, shown

LONGEST_TOKEN = 100


@dataclass(frozen=True)
class Row:
    """A run in a comparison; `behind` is its loss minus that of the best, on the same text."""

    card: Card
    behind: Interval | None

    def as_dict(self) -> dict[str, object]:
        """The figures as in the JSON."""
        card, behind = self.card, self.behind
        return {
            "run": str(card.result.folder.path),
            "kind": card.result.kind,
            "corpus": card.origin.corpus,
            "val_nats_per_char": card.nats_per_char,
            "val_dynamic_nats_per_char": card.result.dynamic.as_dict()["nats_per_char"],
            "val_nats_per_char_95": [card.confidence.low, card.confidence.high],
            "behind_best": None if behind is None else behind.mean,
            "behind_best_95": None if behind is None else [behind.low, behind.high],
            "parameters": card.result.parameters,
            "steps": card.result.steps,
            "seconds": round(card.result.seconds, 2),
            "verdict": card.result.diagnosis.verdict,
        }


def compare(cards: Sequence[Card]) -> list[Row]:
    """The runs, best first; only runs with the same validation text can be compared.

    The difference to the best is paired by character, so that the difficulty of the text cancels
    out: its interval is far narrower than those of the two losses.
    """
    best, *others = sorted(cards, key=lambda card: card.nats_per_char)
    return [Row(best, None), *(Row(each, behind(each.losses, best.losses)) for each in others)]


def behind(losses: CharacterLosses, best: CharacterLosses) -> Interval | None:
    """The loss minus the best one on the same characters; None if the texts differ.

    The first token of a text is given, not predicted, and may be one character or several.
    """
    length = min(len(losses.text), len(best.text))
    first, other = len(losses.text) - length, len(best.text) - length
    if max(first, other) > LONGEST_TOKEN or losses.text[first:] != best.text[other:]:
        return None
    return interval(losses.nats[first:] - best.nats[other:])


def remark(rows: Sequence[Row]) -> str:
    """Names the runs with another validation text than the best; empty if there are none."""
    others = ", ".join(row.card.name for row in rows[1:] if row.behind is None)
    return others and msg(
        "These runs have another validation text than {best} and cannot be compared with it: "
        "{others}.",
        best=rows[0].card.name,
        others=others,
    )


def behind_in_words(row: Row) -> str:
    """The difference to the best with half its interval."""
    return f"{row.behind.mean:+.3f} ± {row.behind.half_width:.3f}" if row.behind else ""


COLUMNS = (
    msg("run"),
    msg("kind"),
    msg("nats/char"),
    msg("behind"),
    msg("parameters"),
    msg("steps"),
    msg("time"),
    msg("verdict"),
)


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table as text, under `COLUMNS`."""
    result = row.card.result
    return (
        row.card.name,
        shown(result.kind),
        f"{row.card.nats_per_char:.4f}",
        behind_in_words(row),
        f"{result.parameters:,}",
        f"{result.steps:,}",
        duration(result.seconds),
        VERDICTS[result.diagnosis.verdict],
    )


def comparison_html(rows: Sequence[Row], language: Language = "en") -> str:
    """The comparison as one page."""
    with speaking(language):
        return page(rows)


def page(rows: Sequence[Row]) -> str:
    """The page in the current language."""
    worst = max(row.card.nats_per_char for row in rows)
    table = "".join(
        f'<tr{" class=mine" if i == 0 else ""}><th scope="row">{visible(row.card.name)} '
        f"<small>{escape(translated(shown(row.card.result.kind)))}</small></th>"
        f'<td class="wide">{bar(row.card.nats_per_char / worst, style_of(row.card.result.kind))}'
        f'</td><td class="number">{row.card.nats_per_char:.3f}</td>'
        f'<td class="number optional">{row.card.nats_per_char / log(2):.3f}</td>'
        f'<td class="number">{escape(behind_in_words(row))}</td></tr>'
        for i, row in enumerate(rows)
    )
    details = "".join(
        f"<tr>{''.join(f'<td>{visible(translated(cell))}</td>' for cell in cells(row))}</tr>"
        for row in rows
    )
    heads = "".join(f"<th>{escape(translated(name))}</th>" for name in COLUMNS)
    alert = translated(remark(rows))
    lines: list[Line] = []
    for i, card in enumerate(row.card for row in rows):
        per_char = card.result.tokens_per_char
        points = [(point.step, point.validation * per_char) for point in card.points]
        lines.append(Line(card.name, points, f"run-{min(i, 5)}", dots=len(points) <= 40))
    best = rows[0].card
    drawn = chart(
        lines,
        description=tr("Validation loss by step."),
        x_label=tr("step"),
        y_label=tr("nats per character"),
    )
    nats, bits = tr("nats/char"), tr("bits/char")
    lede = tr(
        "The best is {name}, at {loss:.3f} nats per character on\nthe validation text of {text}.",
        name=visible(best.name),
        loss=best.nats_per_char,
        text=visible(best.origin.corpus),
    )
    paired = tr(
        "The exact validation loss; shorter is better. The difference to the best is paired\n"
        "by character, with a 95% confidence interval."
    )
    body = f"""<header>
<p class="eyebrow">{tr("Comparison")}</p>
<h1>{tr("{number} runs", number=len(rows))}</h1>
<p class="lede">{lede}</p>
{f'<p class="alert">{visible(alert)}</p>' if alert else ""}
</header>
<section><h2>{tr("All runs on one scale")}</h2>
<p class="hint">{paired}</p>
<table class="scale"><thead><tr><th></th><th></th><th class="number">{nats}</th>
<th class="number optional">{bits}</th><th class="number">{tr("behind")}</th></tr></thead>
<tbody>{table}</tbody></table></section>
<section><h2>{tr("Loss during training")}</h2>
<figure>{legend(lines)}{drawn}</figure>
</section>
<section><h2>{tr("All figures")}</h2><div class="scroll"><table><thead><tr>{heads}</tr></thead>
<tbody>{details}</tbody></table></div></section>
"""
    return document(tr("{number} runs compared", number=len(rows)), body)
