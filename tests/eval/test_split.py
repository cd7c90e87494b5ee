"""What a validation part shares with its training part: found whatever its line ends and forms."""

import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hornbook as hb
from hornbook.cli import run as command
from hornbook.config import DataConfig
from hornbook.eval import split
from hornbook.eval.split import RUN, Copied, Split, find_copied, measure_split
from hornbook.runs.result import revisit
from hornbook.text.corpus import read_corpus
from hornbook.text.dataset import prepare
from hornbook.text.tokenizer import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyzéàöü가나다라마 "


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))


def letters(number: int, seed: int, line: int = 60) -> str:
    drawn = np.random.default_rng(seed).choice(list(LETTERS), number)
    drawn[line::line] = "\n"
    return "".join(drawn)


def measured(text: str, place: Path, **data: object) -> Split:
    path = place / "text.txt"
    path.write_bytes(text.encode())
    corpus = read_corpus(path)
    return measure_split(corpus, prepare(corpus, DataConfig(**data)))


def of_characters(text: str, training: str) -> tuple[Copied, Tokenizer]:
    tokenizer = hb.CharTokenizer.from_text(text + training)
    found = find_copied(tokenizer, tokenizer.encode_array(text), tokenizer.encode_array(training))
    return found, tokenizer


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_the_mask_is_that_of_the_definition(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "RUN", 4)
        training = data.draw(st.text("ab가\n", max_size=40))
        text = data.draw(st.text("ab가\n", min_size=1, max_size=40))
        found, _ = of_characters(text, training)
        expected = np.zeros(len(text), bool)
        for start in range(len(text) - 3):
            if text[start : start + 4] in training:
                expected[start : start + 4] = True
        assert found.mask.tolist() == expected.tolist()
        assert found.share == expected.mean()


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_copy_is_found_past_line_ends_and_forms(
    tokenizer: str, ending: str, form: str, tmp_path: Path
) -> None:
    """The validation part is a copy of the beginning and as much new text, in another form."""
    beginning, rest = letters(600, 1), letters(9000, 2)
    copy = unicodedata.normalize(form, beginning).replace("\n", ending)
    new = unicodedata.normalize(form, letters(600, 3)).replace("\n", ending)
    text = beginning + rest + copy + new
    fraction = (len(copy) + len(new) + 0.5) / len(text)
    found = measured(
        text, tmp_path, tokenizer=tokenizer, validation_fraction=fraction, bpe_vocab_size=400
    )
    expected = len(copy) / (len(copy) + len(new))
    assert found.copied.share == pytest.approx(expected, abs=0.01)
    tokens = len(found.copied.mask)
    assert found.copied.mask[: tokens // 3].mean() > 0.95
    assert not found.copied.mask[-tokens // 3 :].any()


def test_short_copies_are_not_counted(tmp_path: Path) -> None:
    phrase = letters(RUN - 1, 1, line=1000)
    text = phrase + letters(3000, 2) + phrase + letters(250, 3)
    assert measured(text, tmp_path).copied.share == 0
    assert list(measured(letters(4000, 1), tmp_path).warnings()) == []


def test_the_same_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    book = letters(3000, 1)
    (folder / "a.txt").write_text(book, encoding="utf-8", newline="")
    (folder / "b.txt").write_text(letters(2000, 2), encoding="utf-8")
    (folder / "copy of a.txt").write_text(book.replace("\n", "\r\n"), encoding="utf-8", newline="")
    corpus = read_corpus(folder)
    found = measure_split(corpus, prepare(corpus, DataConfig()))
    assert found.copied.share == 1
    assert found.duplicates == (("a.txt", "copy of a.txt"),)
    (warning,) = [each for each in found.warnings() if "verbatim" in each]
    assert warning.startswith("100.0% of the validation text stands verbatim in the training text")
    assert "a.txt = copy of a.txt" in warning
    assert found.as_dict()["duplicate_files"] == (("a.txt", "copy of a.txt"),)


def test_symbols_that_only_validation_has_are_named(tmp_path: Path) -> None:
    found = measured(letters(9000, 1) + "αβ\u200b" * 100 + letters(700, 2), tmp_path)
    assert found.only_validation == ("α", "β", repr("\u200b"))
    (warning,) = found.warnings()
    assert warning.startswith("3 of 40 tokens occur only in the validation text, at 30.0% of its")
    assert "α β '\\u200b'" in warning


def test_a_large_training_text_is_searched_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "MOST_SEARCHED", 1000)
    early, late = letters(500, 1), letters(500, 2)
    training = early + letters(2000, 3) + late
    found, _ = of_characters(early + late, training)
    assert found.share == 0.5
    assert "in the last 1,000 tokens of the training text" in found.sentence()


def test_the_loss_elsewhere_is_that_of_the_positions_not_copied() -> None:
    old, new = letters(300, 1), letters(200, 2)
    found, tokenizer = of_characters(old + new, old)
    tokens = tokenizer.encode_array(old + new)
    nats = np.concatenate([np.full(299, 0.25), np.full(200, 3.0)])
    assert found.elsewhere(tokenizer, tokens, nats) == pytest.approx(3.0, abs=0.1)
    whole, tokenizer = of_characters(old, old)
    assert whole.elsewhere(tokenizer, tokenizer.encode_array(old), nats[:299]) is None


QUICK = [
    word
    for setting in ("n_embd=16", "n_layer=1", "n_head=2", "block_size=16", "batch_size=2")
    for word in ("--set", setting)
]


def test_a_leak_is_told_in_plan_result_card_and_eval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = tmp_path / "folder", tmp_path / "run"
    folder.mkdir()
    for name in ("book.txt", "book-2.txt"):
        (folder / name).write_text(letters(3000, 1), encoding="utf-8")
    text = [str(folder), "--preset", "quick", "--steps", "4", *QUICK]
    share = "100.0% of the validation text stands verbatim in the training text"
    assert command(["train", *text, "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert re.search(f"^split +{share}", printed.out, re.MULTILINE)
    assert "book-2.txt = book.txt" in printed.err
    assert command(["train", *text, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"]["copied_share"] == 1

    assert command(["train", *text, "--out", str(run)]) == 0
    printed = capsys.readouterr()
    assert f"note: {share}" in printed.err
    result = " ".join(printed.out.split())
    assert f"{share} (runs of 50 characters and more), so the loss is lower" in result
    assert "There is no other text to measure." in result
    figures = json.loads((run / "result.json").read_text())["split"]
    assert (figures["copied_share"], figures["new_nats_per_char"]) == (1, None)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "never seen" not in page
    assert "of which it has seen 100.0% in training" in page
    assert share in (run / "report.md").read_text(encoding="utf-8")

    (tmp_path / "new.txt").write_text(letters(3000, 5), encoding="utf-8")
    for path, note in ((folder / "book.txt", True), (tmp_path / "new.txt", False)):
        assert command(["eval", str(run), str(path)]) == 0
        assert ("of the text stands verbatim in the training" in capsys.readouterr().err) == note
    assert command(["eval", str(run), str(folder / "book.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copied_share"] == 1
    for path in folder.iterdir():
        path.unlink()
    assert command(["eval", str(run), str(tmp_path / "new.txt")]) == 0
    assert "whether the model was trained on this text is not known" in capsys.readouterr().err


def test_the_rest_of_a_leaked_text_has_a_loss_of_its_own(tmp_path: Path) -> None:
    path, old = tmp_path / "text.txt", letters(5400, 1)
    path.write_text(old + old[:300] + letters(300, 2), encoding="utf-8")
    list(hb.train(hb.preset("ngram").override(corpus=str(path), order=5), out=tmp_path / "run"))
    result = revisit(tmp_path / "run")
    assert result.split.copied.share == pytest.approx(0.5, abs=0.01)
    assert result.new_nats_per_char is not None
    assert result.new_nats_per_char > result.evaluation.nats_per_char + 0.5


def test_a_text_that_ends_in_another_script_is_remarked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = tmp_path / "text.txt", tmp_path / "run"
    path.write_text(letters(9000, 1) + "αβγ δ" * 200, encoding="utf-8")
    steps = ["--preset", "quick", "--steps", "4", *QUICK]
    assert command(["train", str(path), *steps, "-q", "--out", str(run)]) == 0
    result = " ".join(capsys.readouterr().out.split())
    remark = "4 of 41 tokens occur only in the validation text, at 80.0% of its positions: α β γ δ."
    assert remark in result
    assert result.index("Worse than the uniform guess") < result.index("Too short to tell")
    assert remark in (run / "report.md").read_text(encoding="utf-8")
    assert remark in (run / "report.html").read_text(encoding="utf-8")
