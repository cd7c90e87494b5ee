"""`hornbook trace`: passages and their lines, shares compared with real text, a saved index."""

import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from commands import hornbook

import hornbook as hb
from hornbook.cli import run as hornbook_command
from hornbook.errors import CheckpointError, ConfigError, DataError
from hornbook.report.tracing import index_of

WORDS = [
    "하늘",
    "바다",
    "별",
    "river",
    "stone",
    "the",
    "of",
    "and",
    "bright",
    "바람",
    "숲",
    "night",
]
QUOTED = "이 문장은 두 번째 파일에만 있는, 꽤 길고 하나뿐인 문장이다"


def prose(seed: int, lines: int) -> str:
    """Lines of words that rarely repeat in the same order."""
    chosen = random.Random(seed)
    return "".join(" ".join(chosen.choices(WORDS, k=9)) + "\n" for _ in range(lines))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bigram trained on a folder of three files, the last of which is held out from it."""
    place = tmp_path_factory.mktemp("tracing")
    book = place / "book"
    (book / "part").mkdir(parents=True)
    (book / "a.txt").write_text(prose(1, 40).removesuffix("\n"), encoding="utf-8")
    (book / "b.txt").write_text(f"one\ntwo\n  {QUOTED}!\nfour {QUOTED}\n", encoding="utf-8")
    (book / "part" / "c.txt").write_text(prose(2, 60), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(place / "cache"))
        config = hb.preset("bigram").override(
            corpus=str(book), steps=5, validation_fraction=0.3, eval_interval=5
        )
        list(hb.train(config, out=place / "run"))
    return place / "run"


def test_a_passage_is_found_in_its_file_and_line(run: Path) -> None:
    found = hb.trace(run, f"new words:{QUOTED}; other words")
    [passage] = found.texts[0].passages
    assert passage.text == QUOTED
    assert (passage.file, passage.line) == ("b.txt", 3)
    assert passage.match.occurrences == 2
    assert passage.before.endswith("two\n  ")
    assert passage.after.startswith("!\nfour")
    assert "b.txt, line 3" in str(found)


def test_offsets_lead_back_to_the_words_in_both_texts(run: Path) -> None:
    training = hb.load_text(str(run.parent / "book"))
    text = f"{training[100:160]}?{training[900:1000]}?{QUOTED}"
    rows = json.loads(json.dumps(hb.trace(run, text, at_least=10).as_dict()))["texts"][0]["matches"]
    assert {60, 100, len(QUOTED)} == {row["length"] for row in rows}
    for row in rows:
        at = row["position"]
        assert text[row["start"] : row["end"]] == row["text"]
        assert training[at : at + row["length"]] == row["text"]
        assert training[:at].endswith(row["before"])
        assert training[at + row["length"] :].startswith(row["after"])


def test_shares_count_the_characters_of_matches(run: Path) -> None:
    training = hb.load_text(str(run.parent / "book"))
    new = "☂" * 40
    found = hb.trace(run, f"{training[5:35]}{new}{training[300:370]}{new}{training[600:720]}")
    assert found.shares.characters == 300
    assert found.shares.longest == 120
    assert found.shares.in_runs == {20: 220 / 300, 50: 190 / 300, 100: 120 / 300}
    assert [level for _, level in found.texts[0].pieces()] == [1, 0, 2, 0, 3]
    assert "".join(piece for piece, _ in found.texts[0].pieces()) == found.texts[0].text


def test_real_text_is_measured_by_stretches_as_long(run: Path) -> None:
    training = hb.load_text(str(run.parent / "book"))
    cut = int(0.7 * len(training))
    validation = training[cut:]
    length = 120
    real = hb.trace(run, "x" * length).real
    assert real.texts == min(20, len(validation) // length)
    assert real.characters == real.texts * length
    # Validation text repeats little of the training text, and this one nothing.
    assert real.in_runs[100] == 0
    # A text longer than the validation text is compared with all of that.
    assert hb.trace(run, "x" * 10 * len(training)).real.characters == len(validation)


def test_samples_are_the_models_own_and_reproducible(run: Path) -> None:
    model = hb.load(run)
    found = hb.trace(model, samples=2, max_new_tokens=30, temperature=0.5, seed=7)
    assert [(each.seed, each.text) for each in found.texts] == [
        (seed, model.generate(max_new_tokens=30, temperature=0.5, seed=seed)) for seed in (7, 8)
    ]
    again = hb.trace(run, samples=2, max_new_tokens=30, temperature=0.5, seed=7)
    assert again.as_dict() == found.as_dict()


def test_the_index_is_built_once_and_again_if_damaged(run: Path) -> None:
    notes: list[str] = []
    hb.trace(run, QUOTED)
    expected = hb.trace(run, QUOTED, on_note=notes.append).as_dict()
    assert not notes
    array = run / "copies" / "suffixes.bin"
    array.write_bytes(array.read_bytes()[:-1] + b"\x01")
    assert hb.trace(run, QUOTED, on_note=notes.append).as_dict() == expected
    assert len(notes) == 1
    assert "suffixes.bin is not what was written" in notes[0]
    assert hb.trace(run, QUOTED, on_note=notes.append).as_dict() == expected
    assert len(notes) == 1
    assert not list(run.glob(".writing*")) + list(run.glob(".discarded*"))


def test_an_index_that_cannot_be_saved_is_used_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    notes: list[str] = []
    index = index_of(tmp_path / "file" / "copies", "to be or not", notes.append)
    assert index.match_lengths("or not to").tolist() == [6] * 6 + [1, 2, 2]
    assert "cannot write" in notes[-1]


def test_a_changed_text_is_refused(run: Path, tmp_path: Path) -> None:
    book = run.parent / "book" / "a.txt"
    before = book.read_bytes()
    book.write_bytes(before + b"!")
    try:
        with pytest.raises(CheckpointError, match="has changed"):
            hb.trace(run, QUOTED)
    finally:
        book.write_bytes(before)


@pytest.mark.parametrize("setting", ["samples", "max_new_tokens", "at_least"])
def test_settings_out_of_range_are_refused(run: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} = 0: expected 1 or more"):
        hb.trace(run, **{setting: 0})
    with pytest.raises(DataError, match="empty"):
        hb.trace(run, "")


class Tags(HTMLParser):
    """The elements of a fragment, and their text."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.words = ""
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_notebook_shows_any_text_as_it_is(run: Path) -> None:
    text = f"<script>alert('&amp;')</script>{QUOTED}</pre>"
    page = Tags(hb.trace(run, text)._repr_html_())
    assert not page.open
    assert "script" not in page.names
    assert text in page.words
    assert "b.txt, line 3" in page.words
    assert "b.txt, 3번째 줄" in page.words


def test_the_command_prints_plain_text_to_a_pipe(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text(f"\x1b]0;title\x07 {QUOTED}", encoding="utf-8")
    assert hornbook_command(["trace", str(run), str(tmp_path / "mine.txt")]) == 0
    out = capsys.readouterr().out
    assert "real validation text" in out
    assert re.search(r"b\.txt, line 3", " ".join(out.split()))
    assert hornbook_command(["trace", str(run), "--samples", "2", "--max-new-tokens", "20"]) == 0
    out = capsys.readouterr().out
    assert "sample 2, seed 1" in out
    assert "\x1b" not in out


def test_the_command_prints_json(run: Path, tmp_path: Path) -> None:
    text_given = f"새 글 {QUOTED}".encode()
    done = hornbook("trace", run, "-", "--json", cwd=tmp_path, stdin=text_given)
    assert done.returncode == 0
    assert done.stderr == b""
    [text] = json.loads(done.stdout)["texts"]
    assert text["seed"] is None
    assert [(row["file"], row["line"]) for row in text["matches"]] == [("b.txt", 3)]


def test_the_command_refuses_arguments_that_contradict_each_other(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hornbook_command(["trace", str(run), "mine.txt", "--samples", "2"]) == 2
    assert hornbook_command(["trace", str(run), "--samples", "0"]) == 2
    assert hornbook_command(["trace", str(run.parent)]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("hornbook: ") == 3
    assert not captured.out
