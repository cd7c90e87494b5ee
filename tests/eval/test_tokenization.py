"""The trial of tokenizers: what it reads, what it gives, and what becomes of it."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

import hornbook as hb
from hornbook.cli import run as main
from hornbook.config import Config, DataConfig, Request
from hornbook.eval.diagnosis import diagnose
from hornbook.eval.tokenization import Trial, attempt, nats_by_mixer, nats_by_ngrams
from hornbook.plan.tokenizer import tokenized
from hornbook.text.corpus import Corpus, read_corpus
from hornbook.text.tokenizer import ByteTokenizer, CharTokenizer

KINDS = ("char", "byte", "bpe")


def words(number: int, *, letters: str = "abcdefghij", seed: int = 0) -> str:
    """Random words of ten, in no order, so that no model but a table of words learns anything."""
    drawn = random.Random(seed)
    known = ["".join(drawn.choices(letters, k=8)) for _ in range(10)]
    return " ".join(drawn.choices(known, k=number))


def corpus_of(text: str, folder: Path) -> Corpus:
    path = folder / "words.txt"
    path.write_text(text, encoding="utf-8")
    return read_corpus(path)


def tried(text: str, folder: Path, **more: object) -> Trial:
    values = {"kinds": KINDS, "to_read": 75_000, "mixed": True, **more}
    return attempt(corpus_of(text, folder), DataConfig(bpe_vocab_size=300), **values)


def test_the_validation_part_is_not_read(tmp_path: Path) -> None:
    text = words(3_000)
    cut = int(0.9 * len(text))
    found = tried(text, tmp_path)
    assert set(found.nats_per_char) == {"char", "bpe"}  # of ASCII text, bytes are characters
    assert tried(text[:cut] + "z" * (len(text) - cut), tmp_path) == found


@pytest.mark.parametrize("mixed", [False, True])
def test_a_loss_is_that_of_the_text(tmp_path: Path, *, mixed: bool) -> None:
    """A word of ten, drawn evenly, has ln 10 nats: 0.256 for each of its nine characters."""
    losses = tried(words(3_000), tmp_path, mixed=mixed).nats_per_char
    assert all(0.25 < nats < 0.32 for nats in losses.values())


def test_bytes_are_tried_where_they_are_not_the_characters(tmp_path: Path) -> None:
    found = tried(words(3_000, letters="가나다라마바사아자차"), tmp_path, to_read=110_000)
    assert set(found.nats_per_char) == set(KINDS)
    # Three bytes a character: fewer characters are read in the same time.
    assert 20_000 < found.characters < 110_000 / 4


def test_characters_and_bytes_of_ascii_text_are_predicted_alike() -> None:
    first, second = words(1_000), words(300, seed=0)
    characters = CharTokenizer.from_text(first + second)
    for nats in (nats_by_mixer, nats_by_ngrams):
        by_char, by_byte = (nats(each, first, second) for each in (characters, ByteTokenizer()))
        assert by_char == pytest.approx(by_byte, abs=0.01)


def test_a_short_text_keeps_its_characters(tmp_path: Path) -> None:
    corpus = corpus_of("to be, or not to be\n" * 200, tmp_path)
    request = Request().layer({"flag": {"tokenizer": "auto"}})
    chosen, trial = tokenized(request, corpus)
    assert chosen.config.data.tokenizer == "char"
    assert trial is not None
    assert trial.choosing("char") == "char: the training part is too short to try others"


def test_only_auto_and_the_default_are_tried(tmp_path: Path) -> None:
    corpus = corpus_of(words(6_000), tmp_path)
    for flags in ({"tokenizer": "char", "minutes": 2.0}, {"tokenizer": "bpe"}, {"steps": 5}):
        request = Request().layer({"flag": flags})
        assert tokenized(request, corpus) == (request, None)
    request = Request().layer({"default": {"minutes": 1.0}})
    same, trial = tokenized(request, corpus)
    assert same == request
    assert trial is not None
    assert trial.characters == 20_000


def test_a_trial_is_read_back_and_nothing_else_is() -> None:
    trial = Trial({"char": 1.05, "bpe": 1.02}, 80_000)
    assert Trial.of(json.loads(json.dumps(trial.as_dict()))) == trial
    for facts in (None, {}, {"characters": 1}, {"characters": 1, "nats_per_char": {"x": 1.0}}):
        assert Trial.of(facts) is None


def test_a_better_tokenizer_is_advice() -> None:
    def advice(kind: str, **losses: float) -> list[str]:
        config = Config().override(tokenizer=kind)
        trial = Trial(losses, 80_000)
        return diagnose([], config, tokens_per_char=1.0, passes=1.0, trial=trial).advice

    (said,) = advice("char", char=1.052, bpe=1.022)
    assert "--tokenizer bpe" in said
    assert "1.022" in said
    assert not advice("char", char=1.052, bpe=1.049)  # not worth naming
    assert not advice("bpe", char=1.052, bpe=1.022)
    assert not advice("byte", char=1.052, bpe=1.022)


def test_a_run_keeps_the_tokenizer_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    path, run = tmp_path / "words.txt", tmp_path / "run"
    path.write_text(words(3_000), encoding="utf-8")
    settings = [f"--set={each}" for each in ("bpe_vocab_size=300", "n_layer=1", "n_embd=32")]
    command = ["train", str(path), "--tokenizer", "auto", "--steps", "1", *settings, "--json"]
    assert main([*command, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main([*command, "--no-page", "--out", str(run)]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    losses = result["tokenizer_trial"]["nats_per_char"]
    kind = min(losses, key=lambda each: losses[each])
    assert result["tokenizer"] == plan["settings"]["data"]["tokenizer"] == kind
    assert plan["reasons"]["tokenizer"].startswith(f"{kind}: ")
    assert f"tokenizer {plan['reasons']['tokenizer']}" in printed.err
    trained = hb.load(run)
    assert trained.config.data.tokenizer == trained.tokenizer.kind == kind


def test_the_same_text_gives_the_same_trial_on_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = words(3_000)
    found = tried(text, tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    again = tried(text, tmp_path)
    assert np.array_equal(list(found.nats_per_char.values()), list(again.nats_per_char.values()))
