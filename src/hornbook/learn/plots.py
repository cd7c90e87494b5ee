"""Matplotlib's figures in the lessons, with labels in the page's language.

    from hornbook.learn import show
    plt.plot(losses)
    plt.xlabel("step")
    show("floor")

Text stays text in the SVG, so that the browser's fonts draw it: matplotlib has no Korean font
everywhere. Cells run once for both sites, so a label is there in both languages, and one is hidden.
Importing this module imports neither matplotlib nor torch.
"""

import importlib.resources
import io
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape, unescape
from typing import Any

from hornbook.errors import ConfigError
from hornbook.language import LANGUAGES, Language, choose_language, msg
from hornbook.learn.sheet import FONT, LEAST

NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
# What a file needs, and a page does not. The style is one for all elements of the page.
SIZE = re.compile(r' (?:width|height)="[\d.]+pt"')
STYLE = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>\s*", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->\n? *", re.DOTALL)
TEXT = re.compile(r"<text( [^>]*)>([^<]*)</text>")
FAMILY = re.compile(r"font-family:[^;\"]*")


@dataclass(frozen=True)
class Plot:
    """A figure: its name in plots.toml, its SVG with English labels, the language to show."""

    name: str
    svg: str
    language: Language

    def __repr__(self) -> str:
        return about(self.name)[self.language]

    def _repr_html_(self) -> str:
        """The figure with its labels in both languages; those of the other one are hidden."""
        labels, hidden = about(self.name)["labels"], ' display="none"'

        def twice(found: "re.Match[str]") -> str:
            attributes, label = found[1], unescape(found[2])
            words = {"en": label, "ko": translate(label, labels)}
            if words["en"] == words["ko"]:
                return found[0]
            return "".join(
                f'<text lang="{language}"{"" if language == self.language else hidden}{attributes}>'
                f"{escape(words[language])}</text>"
                for language in LANGUAGES
            )

        words = escape(about(self.name)[self.language])
        return (
            f'<div class="hornbook-plot" style="overflow-x:auto" role="img" aria-label="{words}">'
            f"{TEXT.sub(twice, self.svg)}</div>"
        )


def show(name: str, *, language: str | None = None) -> Plot:
    """Matplotlib's current figure, which it closes, as a plot of the lessons.

    Raises: ConfigError for an unknown name or language.
    """
    about(name)
    chosen = choose_language(language)
    import matplotlib.pyplot as plt

    drawn = io.StringIO()
    # With a salt the same figure has the same ids each time.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        plt.savefig(drawn, format="svg", bbox_inches="tight", metadata=NO_METADATA)
    plt.close()
    return Plot(name, within_a_page(drawn.getvalue()), chosen)


def within_a_page(svg: str) -> str:
    """Matplotlib's SVG as a part of a page: as wide as the page allows, and in its font."""
    _, begin, rest = svg.partition("<svg")
    _, _, points, _ = rest.partition('viewBox="')[2].partition('"')[0].split()
    rest = STYLE.sub("", COMMENT.sub("", SIZE.sub("", rest, count=2)), count=1)
    most = round(float(points) * 4 / 3)  # pixels
    style = (
        f"width:100%;min-width:{min(LEAST, most)}px;max-width:{most}px;height:auto;"
        "stroke-linejoin:round;stroke-linecap:butt"
    )
    return f'{begin} style="{style}"{FAMILY.sub(FONT, rest)}'


def translate(label: str, labels: Mapping[str, str]) -> str:
    """A label in Korean; {} in a known one stands for any words, which are translated too."""
    if label in labels:
        return labels[label]
    for template, korean in labels.items():
        if "{}" in template:
            pattern = re.escape(template).replace(r"\{\}", "(.+)")
            if found := re.fullmatch(pattern, label):
                return korean.format(*(translate(part, labels) for part in found.groups()))
    return label


def about(name: str) -> dict[str, Any]:
    """What plots.toml has of a plot. Raises: ConfigError for an unknown name."""
    if name not in captions():
        raise ConfigError(
            msg("unknown plot {name!r}; known: {known}", name=name, known=", ".join(captions()))
        )
    return captions()[name]


@cache
def captions() -> dict[str, dict[str, Any]]:
    """plots.toml: what each plot shows in words, and its labels in Korean by the English ones."""
    source = importlib.resources.files("hornbook.learn") / "plots.toml"
    return tomllib.loads(source.read_text(encoding="utf-8"))
