"""The report card: figures checked against known ones, and pages that show any text safely."""

import json
import os
import random
import re
import shlex
import shutil
import string
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from math import log
from pathlib import Path

import numpy as np
import pyppmd
import pytest
import torch

import hornbook as hb
from hornbook import report
from hornbook.cli import run as command
from hornbook.report import characters
from hornbook.report.comparison import compare, comparison_html
from hornbook.report.compression import (
    BZIP2_BLOCK,
    TRAINING_BYTES,
    VALIDATION_BYTES,
    compress_all,
    ppmd_size,
)
from hornbook.report.confidence import interval
from hornbook.report.context import loss_by_context
from hornbook.report.markup import visible
from hornbook.runs.folder import RunFolder
from hornbook.runs.result import revisit
from hornbook.training import begin, resume, steps
from hornbook.training.conclude import conclude
from hornbook.training.pace import Pace

WORDS = ("to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler", "mind")
HOSTILE = "<script>alert('1')</script> & </div></main> \" ]]> <!-- 나의 책 é \x01 \ufffe 🂡\n"
SMALL = {
    "block_size": 16,
    "n_embd": 32,
    "batch_size": 4,
    "steps": 24,
    "eval_interval": 6,
    "checkpoint_interval": 6,
    "sample_tokens": 5,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of plain and hostile lines, and two runs on it, with characters and with BPE."""
    place = tmp_path_factory.mktemp("place")
    draw = random.Random(1)
    lines = (
        HOSTILE if i % 9 == 0 else " ".join(draw.choices(WORDS, k=9)) + ".\n" for i in range(160)
    )
    (place / "hostile.txt").write_text("".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(place / "cache"))
        for name, more in (("chars", {}), ("pieces", {"tokenizer": "bpe", "bpe_vocab_size": 300})):
            settings = {"corpus": str(place / "hostile.txt"), **SMALL, **more}
            list(hb.train(hb.preset("quick").override(**settings), out=place / name))
    return place


@pytest.fixture(autouse=True)
def _cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(place / "cache"))


@pytest.fixture(scope="module")
def card(place: Path) -> report.Card:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(place / "cache"))
        return report.examine(revisit(place / "chars"))


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_losses_by_character_mean_the_loss_per_character(kind: str) -> None:
    text = "나의 책, my book: é.\n" * 30
    tokenizer = {
        "char": hb.CharTokenizer.from_text,
        "byte": lambda _: hb.ByteTokenizer(),
        "bpe": lambda text: hb.BPETokenizer.train(text, 280),
    }[kind](text)
    tokens = tokenizer.encode_array(text)[1:]
    nats = np.random.default_rng(0).random(len(tokens))
    found = characters.losses_by_character(tokenizer, tokens, nats)
    assert text.endswith(found.text)
    assert len(found.nats) == len(found.text)
    assert found.nats.sum() == pytest.approx(nats.sum())


def test_a_characters_loss_is_the_sum_of_its_bytes() -> None:
    tokenizer = hb.ByteTokenizer()
    tokens = tokenizer.encode_array("a나b")
    found = characters.losses_by_character(
        tokenizer, tokens, np.array([1.0, 0.5, 0.25, 0.125, 2.0])
    )
    assert found.text == "a나b"
    assert found.nats.tolist() == [1.0, 0.875, 2.0]


def test_joined_stretches_of_bytes_keep_a_loss_for_each_character() -> None:
    whole = "가나다라 ab".encode()
    data = whole[:4] + whole[8:]  # 나 is cut off, and 다 lacks its first byte
    tokens = np.frombuffer(data, np.uint8)
    found = characters.losses_by_character(
        hb.ByteTokenizer(), tokens, np.arange(len(tokens), dtype=float)
    )
    assert len(found.text) == len(found.nats)
    assert found.nats.sum() == np.arange(len(tokens)).sum()
    assert found.text[0] == "가"
    assert found.text.endswith("라 ab")


def test_the_interval_widens_where_neighbours_are_alike() -> None:
    noise = np.random.default_rng(0).normal(size=60_000) ** 2
    alike = np.repeat(noise[::1000], 1000)  # stretches of 1,000 equal losses
    narrow, wide = interval(noise), interval(alike)
    assert narrow.low < noise.mean() < narrow.high
    assert wide.half_width > 5 * narrow.half_width
    assert interval(alike) == wide
    # 1.96 standard errors of the 60 independent stretches, within the bootstrap's own noise.
    error = 1.96 * alike[::1000].std() / 60**0.5
    assert wide.half_width == pytest.approx(error, rel=0.25)
    assert interval(np.full(500, 2.0)).half_width == pytest.approx(0)
    assert interval(np.array([2.0])).mean == 2.0


def test_loss_by_context_is_the_mean_over_positions_in_the_block() -> None:
    nats = np.tile([8.0, 4, 2, 2, 1, 1, 1, 1], 50)
    found = loss_by_context(nats, 8, tokens_per_char=0.5)
    assert [(each.first, each.last, each.nats_per_char) for each in found.depths] == [
        (1, 1, 4.0),
        (2, 2, 2.0),
        (3, 4, 1.0),
        (5, 8, 0.5),
    ]
    assert found.last_doubling == pytest.approx(0.5)
    assert found.noise == pytest.approx(0)
    assert loss_by_context(nats, 1, 1.0).last_doubling is None
    assert loss_by_context(nats[:5], 8, 1.0).depths == []


def test_kinds_of_character_by_hand() -> None:
    losses = characters.CharacterLosses("Ab, 나1\n", np.array([4.0, 1, 3, 1, 6, 2, 3]))
    found = {kind.name: kind for kind in characters.kinds(losses, losses)}
    assert set(found) == {
        "capital letters", "small letters", "punctuation", "spaces", "Hangul letters", "digits",
        "line ends",
    }  # fmt: skip
    assert found["Hangul letters"].share_of_loss == pytest.approx(0.3)
    assert found["capital letters"].share_of_text == pytest.approx(1 / 7)
    assert next(iter(found)) == "Hangul letters"
    assert characters.kind_of("漢") == "Chinese characters"
    assert characters.kind_of("あ") == "Hiragana letters"


def test_a_planted_passage_of_high_loss_is_found_in_its_line() -> None:
    text = "an ordinary line of text\n" * 200
    nats = np.ones(len(text))
    nats[25 * 120 : 25 * 123] = 5
    found = characters.passages(characters.CharacterLosses(text, nats, first_line=41))
    assert found[0].line == 40 + 121
    assert found[0].mean_nats == pytest.approx(5)
    assert len(found[0].text) == len(found[0].nats)
    starts = [passage.line for passage in found]
    assert len(set(starts)) == len(starts)


def test_compressors_use_the_training_text() -> None:
    draw = random.Random(0)
    train = "".join(draw.choices(string.ascii_lowercase, k=40_000))
    primed = {each.name: each for each in compress_all(train, train[10_000:14_000])}
    unprimed = {each.name: each for each in compress_all(train[:5000], train[10_000:14_000])}
    assert set(primed) == {"PPMd", "xz", "bz2", "zstd", "brotli"}
    for name, each in primed.items():
        assert unprimed[name].bits_per_char > log(26, 2)  # the entropy of uniform letters
        if name != "bz2":  # which sorts and does not copy
            assert each.bits_per_char < 0.2
    assert primed["bz2"].bits_per_char < unprimed["bz2"].bits_per_char


def test_ppmds_one_pass_is_the_difference_of_two_sizes() -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices(string.ascii_lowercase, k=5)) for _ in range(300)]
    text = " ".join(draw.choices(words, k=9000)).encode()
    before, after = text[:45_000], text[45_000:]

    def size(data: bytes) -> int:
        stream = pyppmd.Ppmd7Encoder(6, 1 << 24)
        return len(stream.encode(data)) + len(stream.flush())

    difference = size(text) - size(before)
    assert abs(ppmd_size(before, after, 6, 1 << 24) - difference) <= 8


def test_compressors_cut_a_large_text_between_characters() -> None:
    text = "가나다라마 바사" * (VALIDATION_BYTES // 8)
    found = compress_all("", text)
    assert len(text[: found[0].characters].encode()) <= VALIDATION_BYTES
    assert found[0].characters > VALIDATION_BYTES // 4
    assert compress_all(text, "") == []
    assert VALIDATION_BYTES < BZIP2_BLOCK < TRAINING_BYTES


class Page(HTMLParser):
    """The tags, attributes and words of a page; fails where tags do not nest."""

    EMPTY = frozenset({"meta", "br", "link", "img", "line", "rect", "circle", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.EMPTY
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment from the text")

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_shows_a_hostile_text_and_loads_nothing(card: report.Card) -> None:
    page = report.html(card)
    found = Page(page)
    assert not found.tags & {"script", "link", "img", "iframe", "object", "form"}
    assert not [name for name, _ in found.attributes if name in ("src", "href", "style")]
    assert "http" not in page.replace("http-equiv", "")
    assert "url(" not in page
    assert "<script>" in found.words
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\ud800-\udfff]", page)


def test_characters_that_html_forbids_are_replaced() -> None:
    assert visible("a\x00b\ud800c\ufffe<\n") == "a\ufffdb\ufffdc\ufffd&lt;\n"


def test_the_card_has_every_figure(card: report.Card) -> None:
    figures = json.loads(json.dumps(card.as_dict()))
    names = {mark["name"]: mark for mark in figures["scale"]}
    assert {"this model", "bigram counts", "unigram counts", "knowing nothing"} < set(names)
    assert {"xz", "bz2", "zstd", "brotli"} < set(names)
    assert names["this model"]["kind"] == "network"
    assert names["this model"]["nats_per_char"] == figures["val_nats_per_char"]
    low, high = figures["val_nats_per_char_95"]
    assert low < figures["val_nats_per_char"] < high
    assert names["knowing nothing"]["nats_per_char"] == pytest.approx(
        log(figures["made_from"]["vocab_size"])
    )
    assert figures["val_perplexity_per_char"] == pytest.approx(
        2.718281828 ** figures["val_nats_per_char"]
    )
    assert sum(kind["share_of_loss"] for kind in figures["kinds_of_character"]) == pytest.approx(1)
    assert [sample["temperature"] for sample in figures["samples"]] == [0.5, 0.8, 1.0]
    for sample in figures["samples"]:
        assert len(sample["text"]) == len(sample["match_lengths"])
    text = card.result.corpus.text
    for passage in figures["most_surprising"]:
        assert passage["text"] in text
        assert text.count("\n", 0, text.rindex(passage["text"])) < passage["line"]
        lines = text.splitlines(keepends=True)
        around = "".join(lines[passage["line"] - 4 : passage["line"] + 4])
        assert passage["text"].split("\n")[0] in around


def test_the_same_in_markdown(card: report.Card, place: Path) -> None:
    report.write(card)
    text = (place / "chars" / "report.md").read_text(encoding="utf-8")
    for mark in card.predictors:
        assert f"{mark.nats_per_char:.4f}" in text
    assert card.result.diagnosis.sentences[0] in text
    assert "\n    " in text  # the samples, indented: none of it is Markdown


def made_again(run: Path) -> Path:
    """The run that the command on a report card makes."""
    command_line = json.loads((run / "report.json").read_text())["made_from"]["command"]
    words = shlex.split(command_line)
    assert words[0] == "hornbook"
    again = run.with_name(f"{run.name}-again")
    assert command([*words[1:], "--out", str(again), "-q"]) == 0
    return again


def assert_same_weights(run: Path, other: Path) -> None:
    one, two = (hb.load(path) for path in (run, other))
    assert one.step == two.step
    for name, weights in one.model.state_dict().items():
        assert torch.equal(weights, two.model.state_dict()[name]), name


def test_the_command_makes_the_same_weights_again(card: report.Card, place: Path) -> None:
    report.write(card)
    for choice in ("compile=", "precision=float32", "threads=", "device=cpu"):
        assert f"--set {choice}" in card.origin.command
    again = made_again(place / "chars")
    assert_same_weights(place / "chars", again)
    result = json.loads((again / "result.json").read_text())
    assert result["val_nats_per_char"] == card.nats_per_char


class Wavering(Pace):
    """Plans another number of steps after most steps, as a clock would."""

    def steps(self, step: int, total: int, eval_interval: int) -> int:
        return {1: 30, 4: 17, 5: 17, 9: 22, 13: 19, 16: 16}.get(step, total)


def test_a_changing_plan_is_made_again_step_by_step(place: Path) -> None:
    settings = {"corpus": str(place / "hostile.txt"), **SMALL, "dropout": 0.1}
    trainer = begin(hb.preset("quick").override(**settings), out=place / "wavering")
    trainer.pace = Wavering(1.0)
    list(steps(trainer))
    conclude(trainer)
    made = report.write(report.examine(revisit(place / "wavering")))
    assert "--steps 16" in made.origin.command
    assert "replanned=0:24,1:30,4:17,9:22,13:19,16:16" in made.origin.command
    again = made_again(place / "wavering")
    assert_same_weights(place / "wavering", again)
    rates = [
        [row["learning_rate_scale"] for row in RunFolder(path).metrics_rows()]
        for path in (place / "wavering", again)
    ]
    assert rates[0] == rates[1]


def test_an_extended_run_is_made_again_with_the_same_best(place: Path) -> None:
    """On random letters its best weights are those of step 12, where it had ended."""
    text = place / "random.txt"
    text.write_text("".join(random.Random(2).choices(string.ascii_lowercase, k=1500)))
    run = place / "extended"
    settings = {**SMALL, "corpus": str(text), "steps": 12, "batch_size": 32}
    settings |= {"eval_interval": 50, "checkpoint_interval": 50}
    list(steps(begin(hb.preset("quick").override(**settings), out=run)))
    trainer = resume(run, steps=60)
    list(steps(trainer))
    made = report.write(report.examine(conclude(trainer)))
    assert made.result.step == 12
    assert "replanned=0:12,12e:60" in made.origin.command
    again = made_again(run)
    assert_same_weights(run, again)
    losses = [[row["val_loss"] for row in RunFolder(each).metrics_rows()] for each in (run, again)]
    assert losses[0] == losses[1]


def test_a_run_whose_time_was_up_is_made_again_with_its_steps(place: Path) -> None:
    class Stopped(Pace):
        def steps(self, step: int, total: int, eval_interval: int) -> int:
            return 13 if step == 13 else total

    settings = {"corpus": str(place / "hostile.txt"), **SMALL}
    trainer = begin(hb.preset("quick").override(**settings), out=place / "stopped")
    trainer.pace = Stopped(1.0)
    list(steps(trainer))
    made = report.write(report.examine(conclude(trainer)))
    assert "--steps 13 " in made.origin.command
    assert "replanned=0:24,13:13" in made.origin.command
    assert_same_weights(place / "stopped", made_again(place / "stopped"))


def test_a_run_limited_by_minutes_is_made_again(place: Path) -> None:
    text = place / "longer.txt"
    text.write_text("".join(random.Random(2).choices(string.ascii_lowercase + " \n", k=30_000)))
    config = hb.Config().override(corpus=str(text), minutes=0.3, precision="float32")
    trainer = begin(config, out=place / "minutes")
    list(steps(trainer))
    made = report.write(report.examine(conclude(trainer)))
    assert f"--steps {trainer.state.step} " in made.origin.command
    assert_same_weights(place / "minutes", made_again(place / "minutes"))


def test_runs_are_compared_on_the_same_characters(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(place / "chars"), str(place / "pieces")]
    assert command(["report", *runs, "--out", str(tmp_path / "compared"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["val_nats_per_char"] < rows[1]["val_nats_per_char"]
    assert rows[0]["behind_best"] is None
    # One is given the first character and the other the first token: nearly the same text.
    gap = rows[1]["val_nats_per_char"] - rows[0]["val_nats_per_char"]
    assert rows[1]["behind_best"] == pytest.approx(gap, abs=0.02)
    low, high = rows[1]["behind_best_95"]
    assert low < rows[1]["behind_best"] < high
    page = (tmp_path / "compared" / "comparison.html").read_text(encoding="utf-8")
    assert Page(page).tags.isdisjoint({"script", "link", "img"})
    assert "pieces" in (tmp_path / "compared" / "comparison.md").read_text(encoding="utf-8")


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FRAME = """<iframe id=page src="{name}" width=390 height=800 style="border:0"></iframe>
<pre id=found></pre><script>setTimeout(() => {{
  const root = page.contentDocument.documentElement;
  found.textContent = root.scrollWidth + " of " + root.clientWidth;
}}, 1000)</script>"""


@pytest.mark.skipif(BROWSER is None, reason="there is no browser here")
def test_the_pages_are_no_wider_than_a_phone(
    card: report.Card, place: Path, tmp_path: Path
) -> None:
    long = replace(card, name="a-run-with-a-name-that-is-longer-than-a-phone-is-wide-1")
    pages = {
        "card.html": report.html(card),
        "compared.html": comparison_html(compare([card, long])),
    }
    for name, page in pages.items():
        policy = re.compile("<meta http-equiv=.Content-Security-Policy[^>]*>")
        (tmp_path / name).write_text(policy.sub("", page), encoding="utf-8")
        frame = tmp_path / f"frame-{name}"
        frame.write_text(FRAME.format(name=name), encoding="utf-8")
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files")
        seen = subprocess.run(
            [str(BROWSER), *flags, "--virtual-time-budget=4000", "--dump-dom", frame.as_uri()],
            env=os.environ | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        width, seen_width = map(int, re.findall(r"(\d+) of (\d+)</pre>", seen)[0])
        assert width == seen_width <= 390, name


def test_the_report_of_an_unfinished_run_states_that_it_is_unfinished(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"corpus": str(place / "hostile.txt"), **SMALL}
    steps = hb.train(hb.preset("quick").override(**settings), out=tmp_path / "half")
    for metrics in steps:
        if metrics.step == 8:
            break
    steps.close()
    assert command(["report", str(tmp_path / "half")]) == 0
    captured = capsys.readouterr()
    assert "has not ended" in captured.err
    assert "this model" in captured.out
    page = (tmp_path / "half" / "report.html").read_text(encoding="utf-8")
    assert "8 of 24 steps are done" in " ".join(Page(page).words.split())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere"], 1, "not a run folder"),
        (["{run}", "{run}"], 2, "named twice"),
        (["{run}", "--out", "x"], 2, "two runs or more"),
        ([], 2, "run"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str], status: int, message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.replace("{run}", str(place / "chars")) for word in arguments]
    assert command(["report", *given]) == status
    captured = capsys.readouterr()
    assert message in captured.err.lower()
    assert not captured.out
