"""Plots of the lessons: every label in both languages, as text of the page."""

import ast
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from hornbook.errors import ConfigError
from hornbook.language import LANGUAGES
from hornbook.learn import plots, show
from hornbook.learn.notebooks import lessons, read

HANGUL = re.compile("[가-힣]")
DOCS = Path(__file__).parents[2] / "docs"
mpl.use("Agg")


def shown() -> dict[str, tuple[Path, str]]:
    """The cell of each plot of the lessons."""
    found = {}
    for source in lessons():
        for cell in read(source):
            if cell.code and (name := re.search(r'^show\("(\w+)"\)$', cell.text, re.MULTILINE)):
                found[name[1]] = source, cell.text
    return found


def labels_of(cell: str) -> set[str]:
    """The labels that a cell gives to matplotlib; {} stands for what is filled in."""
    given: set[str] = set()
    for node in ast.walk(ast.parse(cell)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            wanted = [each.value for each in node.keywords if each.arg == "label"]
            if re.fullmatch(r"(set_)?(title|[xy]label)", node.func.attr):
                wanted += node.args
            for each in wanted:
                if isinstance(each, ast.Constant):
                    given.add(str(each.value))
                if isinstance(each, ast.JoinedStr):
                    parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in each.values)
                    given.add("".join(map(str, parts)))
    return given


def test_every_plot_of_the_lessons_is_described_and_its_labels_are_korean_too() -> None:
    found = shown()
    assert list(found) == list(plots.captions())
    for name, (source, cell) in found.items():
        about = plots.captions()[name]
        assert HANGUL.search(about["ko"])
        assert not HANGUL.search(about["en"])
        assert labels_of(cell) <= set(about["labels"]), name
        page = source.read_text(encoding="utf-8")
        for label, korean in about["labels"].items():
            assert HANGUL.search(korean)
            assert all(part in page for part in label.split("{}")), label
        assert "plt.show()" not in page


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_plot_has_its_labels_in_both_languages_and_shows_one(language: str) -> None:
    plt.figure(figsize=(7, 3))
    plt.plot([1, 2], label="5,000 characters: training")
    plt.xlabel("step")
    plt.ylabel("mine & yours")
    plt.legend()
    plot = show("memorised", language=language)
    assert plt.get_fignums() == []
    assert bool(HANGUL.search(repr(plot))) == (language == "ko")
    svg = ET.fromstring(plot._repr_html_()).find("{*}svg")
    assert svg is not None
    texts = svg.findall(".//{*}text")
    visible = [each.text for each in texts if each.get("display") != "none"]
    words = {"en": ["step", "5,000 characters: training"], "ko": ["스텝", "5,000글자: 학습"]}
    assert set(words[language]) <= set(visible)
    assert "mine & yours" in visible  # a learner's own label stays as it is
    assert [each.text for each in texts if each.get("display")] == words[
        "en" if language == "ko" else "ko"
    ]
    assert svg.find(".//{*}style") is None  # it would be one for the whole page


def test_an_unknown_plot_is_refused_and_its_figure_kept() -> None:
    plt.plot([1, 2])
    with pytest.raises(ConfigError, match="unknown plot 'start'; known: starts, "):
        show("start")
    assert len(plt.get_fignums()) == 1
    plt.close()


def test_the_ladder_s_picture_draws_the_same_in_both_languages() -> None:
    lines: dict[str, list[str | None]] = {}
    for name in ("ladder.svg", "ladder.ko.svg"):
        svg = ET.parse(DOCS / name).getroot()
        groups = svg.findall(".//{*}g[@id]")
        drawn = (each for each in groups if not each.attrib["id"].startswith("text"))
        lines[name] = [path.get("d") for each in drawn for path in each.findall("{*}path")]
        words = "".join(each.text or "" for each in svg.findall(".//{*}text"))
        assert bool(HANGUL.search(words)) == (name == "ladder.ko.svg")
    assert lines["ladder.svg"] == lines["ladder.ko.svg"]
    assert len(lines["ladder.svg"]) > 20
