"""Drawings and things to touch: in both languages, without scripts, and as hornbook computes."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hornbook as hb
from hornbook.config import SamplingConfig
from hornbook.errors import ConfigError
from hornbook.infer import probabilities
from hornbook.language import LANGUAGES
from hornbook.learn import draw, touch
from hornbook.learn.drawings import KINDS
from hornbook.learn.notebooks import lessons

HANGUL = re.compile("[가-힣]")
TEXT = "The king is dead. Long live the king! Thinking of the king, the thing sings. " * 20


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", KINDS)
def test_a_drawing_is_in_its_language_and_within_its_sheet(name: str, language: str) -> None:
    drawing = draw(name, language=language)
    svg = ET.fromstring(drawing.svg("ko" if language == "ko" else "en"))
    width, height = map(float, svg.attrib["viewBox"].split()[2:])
    assert bool(HANGUL.search(svg.attrib["aria-label"])) == (language == "ko")
    assert bool(HANGUL.search(repr(drawing))) == (language == "ko")
    texts = svg.findall("text")
    assert texts
    for text in texts:
        assert 0 <= float(text.attrib["x"]) <= width
        assert 0 <= float(text.attrib["y"]) <= height
    for box in svg.findall("rect"):
        assert 0 <= float(box.attrib["x"]) <= width - float(box.attrib["width"])
        assert 0 <= float(box.attrib["y"]) <= height - float(box.attrib["height"])


def test_every_drawing_is_in_a_lesson_and_shows_one_language() -> None:
    drawn = re.findall(
        r'^draw\("(\w+)"\)', "\n".join(p.read_text("utf-8") for p in lessons()), re.M
    )
    assert sorted(drawn) == sorted(KINDS)
    html = draw("mask", language="ko")._repr_html_()
    assert 'lang="ko">' in html
    assert 'lang="en" hidden>' in html
    with pytest.raises(ConfigError, match="unknown drawing 'masks'; known: split, "):
        draw("masks")


def test_a_widget_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match="unknown widget 'slider'; known: softmax, "):
        touch("slider")
    with pytest.raises(ConfigError, match=r"touch\('averages'\): .*'x'"):
        touch("averages")


def test_importing_drawings_and_widgets_does_not_import_torch() -> None:
    code = "import sys; from hornbook.learn import draw, touch; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_widgets_compute_what_hornbook_computes_and_show_pictures_without_scripts(
    tmp_path: Path, browser: Any
) -> None:
    characters = hb.CharTokenizer.from_text(TEXT)
    pairs = hb.BPETokenizer.train(TEXT, vocab_size=300)
    logits = [2.0, 1.5, 1.0, 0.2, -1.0]
    widgets = [
        touch("tokenizer", text="the king", characters=characters, pairs=pairs),
        touch("averages", x=[2, 8, 5]),
        touch("softmax", names=["a", "b"], logits=[1, 0]),
        touch("attention", names=["a", "b"], weights=[[1, 0], [0.25, 0.75]]),
        touch("sampling", names=list("eato "), logits=logits),
    ]
    page = tmp_path / "widgets.html"
    body = "".join(widget._repr_html_() for widget in widgets)
    page.write_text(f"<meta charset=utf-8><body>{body}", encoding="utf-8")
    words = "새 thinking: the kings'  1,000 things!"
    still = browser.new_context(java_script_enabled=False).new_page()
    still.goto(page.as_uri())
    assert still.locator("svg:visible").count() == len(widgets)
    assert still.locator("input").count() == 0

    live = browser.new_page()
    errors: list[str] = []
    live.on("pageerror", lambda error: errors.append(str(error)))
    live.goto(page.as_uri())
    live.locator("input[type=text]").fill(words)
    lines = live.locator(".hb-tokens").evaluate_all("all => all.map((e) => e.childElementCount)")
    assert lines[:3] == [len(words), len(words.encode()), len(pairs.encode(words))]
    unknown = sum(letter not in TEXT for letter in words)
    assert live.locator(".hb-unknown").count() == unknown > 0

    table = live.locator("[data-kind=averages]")
    table.locator("input").nth(1).fill("-4")
    assert table.locator("tr").nth(2).locator("td").last.inner_text() == "7.89"

    sampling = live.locator("[data-kind=sampling]")
    for place, value in enumerate(("0.5", "4", "0.9")):
        sampling.locator("input").nth(place).fill(value)
    shown = [float(value) for value in sampling.locator(".hb-value").all_inner_texts()]
    settings = SamplingConfig(temperature=0.5, top_k=4, top_p=0.9)
    assert shown == pytest.approx(probabilities(np.array(logits), settings).tolist(), abs=6e-4)
    assert errors == []
