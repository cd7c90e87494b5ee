"""What a notebook shows: whole HTML without scripts, whatever the text; and the documented code."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from kinds import KINDS, TOKENIZERS, model_of
from small import small_config

import hornbook as hb
from hornbook.lens.look import look
from hornbook.lens.picture import png
from hornbook.lens.seen import Seen
from hornbook.text.tokenizer import ByteTokenizer, CharTokenizer

DOCS = Path(__file__).parents[2] / "docs"


class Page(HTMLParser):
    """The tags and the text of a piece of HTML; every tag that is opened must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.images: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
            assert dict(attrs)["alt"]
        elif tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("kind", KINDS)
def test_a_notebook_shows_every_kind_of_model(kind: str) -> None:
    seen = look(model_of(kind), TOKENIZERS["char"], "to be, 나의 책\nor not")
    page = Page(seen._repr_html_())
    assert len(page.images) == seen.attention.shape[0] * seen.attention.shape[1]
    assert not page.tags & {"script", "style", "link", "iframe"}
    token, p = seen.top(1)[0]
    assert f"{token!r}{p:.1%}" in page.text
    assert ("gate" in page.text) == (kind == "joined")
    strongest = seen.components[int(np.abs(seen.attribution[:, -1]).argmax())]
    assert strongest in page.text


def test_a_picture_speaks_the_language_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORNBOOK_LANG", "ko")
    page = Page(look(model_of("joined"), TOKENIZERS["char"], "to be")._repr_html_())
    assert "어디를 보나" in page.text
    assert "Where it looks" not in page.text


def test_text_of_a_model_is_never_html() -> None:
    evil = "<script>alert('&amp;\"')</script>\x00"
    for tokenizer in (CharTokenizer.from_text(evil), ByteTokenizer()):
        page = Page(look(model_of("joined", tokenizer.vocab_size), tokenizer, evil)._repr_html_())
        assert "script" not in page.tags
        assert evil[:20] in page.text


def test_a_map_is_a_picture_of_its_numbers() -> None:
    weights = np.random.default_rng(0).random((5, 5)).astype(np.float32)
    picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(png(weights))))
    np.testing.assert_allclose(picture[..., 3], weights, atol=0.5 / 255 + 1e-6)
    assert len(png(np.tril(np.ones((64, 64), np.float32)))) < 3000


def test_long_texts_make_pictures_of_bounded_size() -> None:
    model, text = model_of("gpt"), "to be, or not to be: " * 100
    seen = look(model, TOKENIZERS["char"], text)
    assert isinstance(seen, Seen)
    assert len(seen._repr_html_()) < 600_000


def test_the_code_of_the_documentation_works(
    text_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page = (DOCS / "look.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    program = "\n".join(blocks).replace("ROMEO:", "abc").replace("20_000", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    letters = tmp_path / "letters.txt"
    letters.write_text("abcdefghijklmnopqrstuvwxyz\n" * 60, encoding="utf-8")
    config = small_config(letters, n_layer=2, n_head=4, steps=1, model="gpt")
    for _ in hb.train(config, out=tmp_path / "runs" / "hamlet-1"):
        pass
    exec(compile(program, "look.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.count("\n1 3 ") == 1
    assert "blocks." in printed
