"""The lessons: every cell runs, and both languages build into complete pages."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from hornbook.learn import plots

DOCS = Path(__file__).parent.parent / "docs"

HANGUL = re.compile("[가-힣]")
# A reader of Korean takes two small words for an English sentence; "llama.cpp" is a name.
WORD = r"(?<![\w./-])[a-z]{3,}(?![./-]?\w)"
ENGLISH = re.compile(f"{WORD}.*{WORD}", re.DOTALL)
# Elements that break a line, and those whose text is no prose or is there in both languages.
BLOCKS = {"p", "li", "td", "th", "h1", "h2", "h3", "h4", "dt", "dd", "figcaption", "div", "title"}
NO_PROSE = {"code", "pre", "script", "style", "svg"}

# Trainings of the lessons that the short form makes shorter: the same cells run. The long form runs
# them as they are, and so does tests/learn/test_notebooks.py --long.
SHORTER = {
    "03-the-bigram-model": {"range(10_000)": "range(1_000)", "10_001, 100)": "1_001, 100)"},
    "05-one-head-of-attention": {"range(3001)": "range(201)", "step % 500": "step % 100"},
    "06-from-head-to-block": {"steps=800": "steps=50", "range(200)": "range(20)",
                              "/ 200": "/ 20", '"steps": 500': '"steps": 20',
                              '"steps": 400': '"steps": 20'},
    "07-overfitting": {"steps=500": "steps=50", "step % 50 ": "step % 5 ", "range(8)": "range(1)"},
    "08-sampling": {"range(400)": "range(40)"},
    "09-todays-gpt": {"steps=250": "steps=20"},
    "10-your-own-text": {"steps=60": "steps=6"},
    "12-from-a-pretrained-model": {"much, 200,": "much, 50,", "little, 75,": "little, 25,"},
}  # fmt: skip


class Page(HTMLParser):
    """What a page loads and links to, its language, and its paragraphs without code."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.language = ""
        self.paragraphs = [""]
        self._skipping: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self.paragraphs[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCKS:
            self.paragraphs.append("")
        if self._skipping and tag == self._skipping[0]:
            self._skipping.pop()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        if tag in BLOCKS:
            self.paragraphs.append("")
        other = tag != "html" and values.get("lang", self.language) != self.language
        if tag in (self._skipping or NO_PROSE) or (other and not self._skipping):
            self._skipping.append(tag)
        if tag == "img" and not self._skipping:
            self.paragraphs += [values.get("alt", ""), ""]
        if tag == "html":
            self.language = values.get("lang", "")
        if tag in ("img", "script", "source", "iframe") and "src" in values:
            self.loads.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(values["href"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


def shortened(lesson: str) -> str:
    """A lesson with shorter trainings."""
    source = (DOCS / "lessons" / f"{lesson}.md").read_text(encoding="utf-8")
    for long, short in SHORTER[lesson].items():
        assert long in source, f"{lesson} has no {long}"
        source = source.replace(long, short)
    return source


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, long_form: bool) -> dict[str, list[Page]]:
    """Both languages, built one after the other; the cells only run for the first."""
    copy = tmp_path_factory.mktemp("docs") / "docs"
    shutil.copytree(DOCS, copy, ignore=shutil.ignore_patterns("_build"))
    for lesson in () if long_form else SHORTER:
        (copy / "lessons" / f"{lesson}.md").write_text(shortened(lesson), encoding="utf-8")
    built = {}
    for language in ("en", "ko"):
        out = copy / "_build" / "html" / language
        done = subprocess.run(
            [*shlex.split(f"{sys.executable} -m sphinx -W -q -D language={language}"), copy, out],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        built[language] = [Page(path) for path in sorted(out.rglob("*.html"))]
    return built


def test_both_languages_have_the_same_pages_and_name_their_language(
    pages: dict[str, list[Page]],
) -> None:
    names = {language: [page.path.name for page in built] for language, built in pages.items()}
    assert names["en"] == names["ko"]
    assert sum(name[:2].isdigit() for name in names["en"]) == 13
    for language, built in pages.items():
        assert {page.language for page in built} == {language}


def test_nothing_a_page_needs_is_missing_or_elsewhere(pages: dict[str, list[Page]]) -> None:
    for page in (page for built in pages.values() for page in built):
        for address in page.loads:
            assert not re.match(r"(https?:)?//", address), f"{page.path}: loads {address}"
            if not address.startswith("data:"):
                target = page.path.parent / unquote(address.split("?")[0].split("#")[0])
                assert target.is_file(), f"{page.path}: no {address}"


def test_every_link_within_the_pages_has_a_target(pages: dict[str, list[Page]]) -> None:
    everything = {page.path.resolve(): page for built in pages.values() for page in built}
    for path, page in everything.items():
        for address in page.links:
            if re.match(r"[a-z]+:|//", address):
                continue
            name, _, anchor = address.partition("#")
            target = (path.parent / unquote(name)).resolve() if name else path
            assert target.is_file(), f"{path}: no {address}"
            if anchor and target in everything:
                assert unquote(anchor) in everything[target].ids, f"{path}: no {address}"


def test_every_lesson_switches_to_its_twin(pages: dict[str, list[Page]]) -> None:
    for language, other in (("en", "ko"), ("ko", "en")):
        for page in pages[language]:
            if page.path.parent.name == "lessons":
                twin = f"{other}/lessons/{page.path.name}"
                assert any(link.endswith(twin) for link in page.links), f"{page.path}: no switch"


def test_lessons_show_pictures_and_results(pages: dict[str, list[Page]]) -> None:
    for built in pages.values():
        lessons = [page for page in built if page.path.parent.name == "lessons"]
        shown = sum(page.path.read_text("utf-8").count("hornbook-plot") for page in lessons)
        assert shown == len(plots.captions())
        for page in lessons:
            html = page.path.read_text(encoding="utf-8")
            assert "Traceback" not in html
            assert "cell_output" in html


def test_no_paragraph_of_a_korean_page_is_english(pages: dict[str, list[Page]]) -> None:
    """Of words for pictures and cells of tables neither; the experiments say that they are."""
    for page in pages["ko"]:
        if page.path.name == "experiments.html":
            assert any("아직 영어로만 있어요" in each for each in page.paragraphs)
            continue
        left = [each.strip() for each in page.paragraphs if not HANGUL.search(each)]
        assert [each for each in left if ENGLISH.search(each)] == [], page.path
    # The same eyes find the English of the English pages.
    assert sum(bool(ENGLISH.search(each)) for page in pages["en"] for each in page.paragraphs) > 999
