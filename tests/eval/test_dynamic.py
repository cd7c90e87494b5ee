"""Dynamic evaluation: each position once, from the text before it; the run stays as it is."""

import hashlib
import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from small import TEXT, small_config, small_gpt

import hornbook as hb
from hornbook.cli import run as command
from hornbook.config import ModelConfig
from hornbook.errors import DataError
from hornbook.eval.dynamic import (
    COUNTED_IN_ALL,
    GrowingCounts,
    copied,
    evaluate_dynamically,
    learner_of,
    piece_size,
)
from hornbook.eval.loss import Evaluation, losses
from hornbook.models.language_model import LanguageModel
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.ngram import NGramLanguageModel
from hornbook.models.registry import build
from hornbook.ngram.model import NGramModel
from hornbook.ngram.tuning import choose
from hornbook.text.arrays import Tokens

V = 11
KINDS = ("gpt", "layernorm", "bigram", "ngram", "mixture")
SHAPE = {"block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 32}


def patterned(length: int, seed: int) -> Tokens:
    """Tokens that repeat themselves, so that there is something to learn."""
    draw = np.random.default_rng(seed)
    words = draw.integers(V, size=(6, 7))
    return words[draw.integers(6, size=length // 7 + 1)].ravel()[:length].astype(np.uint8)


TRAIN, LATER = patterned(3000, 0), patterned(5000, 1)


def made(kind: str) -> tuple[LanguageModel, ModelConfig]:
    """A small model of a kind, whose n-grams have counted TRAIN."""
    torch.manual_seed(0)
    ngrams = choose(TRAIN, V).count(TRAIN, V)
    config = ModelConfig(model=kind if kind != "mixture" else "gpt", **SHAPE)
    if kind == "mixture":
        counts = NGramLanguageModel(ngrams, config.context_size)
        return GPTWithCounts(small_gpt(V, config), counts).eval(), config
    return build(config, V, ngrams).eval(), config


def read(kind: str, tokens: Tokens) -> np.ndarray:
    """The loss of each token by a model of a kind that learns as it reads."""
    model, config = made(kind)
    learner, size = learner_of(model, config, TRAIN, len(LATER)), piece_size(model)
    pieces = [learner.nats(tokens[i : i + size]) for i in range(0, len(tokens), size)]
    return np.concatenate(pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_a_position_is_predicted_once_from_what_is_before_it_alone(kind: str) -> None:
    nats = read(kind, LATER)
    assert len(nats) == len(LATER)
    np.testing.assert_array_equal(read(kind, LATER), nats)
    for place in (0, 700, 1500, 4999):
        other = LATER.copy()
        other[place:] = (other[place:] + 1 + np.arange(len(other) - place) % 3) % V
        np.testing.assert_allclose(read(kind, other)[:place], nats[:place], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_is_learned_and_the_model_left_as_it_was(kind: str) -> None:
    model, config = made(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokenizer = hb.CharTokenizer.from_text("abcdefghijk")
    found = evaluate_dynamically(copied(model), config, tokenizer, TRAIN, LATER)
    assert (found.positions, found.standard_error) == (len(LATER), None)
    frozen = losses(model, LATER, block_size=config.context_size).mean()
    assert found.nats_per_token < frozen
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.grad is None


@pytest.mark.parametrize("kind", ["gpt", "layernorm", "bigram", "mixture"])
def test_the_first_piece_is_the_frozen_models(kind: str) -> None:
    model, config = made(kind)
    found = learner_of(copied(model), config, TRAIN, len(LATER)).nats(LATER[:32])
    for i in (0, 1, 17, 31):
        # By the longest context that every way of reading has.
        before = np.concatenate([TRAIN, LATER[:i]])[-config.context_size :]
        if kind == "layernorm":  # blocks overlap by half
            before = before[-(config.block_size // 2 + 1 + i % 8) :]
        with torch.no_grad():
            logits, _ = model(torch.from_numpy(before.astype(np.int64))[None])
        expected = -logits[0, -1].double().log_softmax(-1)[int(LATER[i])].item()
        assert found[i] == pytest.approx(expected, abs=1e-3)


def test_ngrams_are_counted_anew_on_all_text_so_far() -> None:
    config = ModelConfig(model="ngram", block_size=16)
    recipe = choose(TRAIN, V)
    model = NGramLanguageModel(recipe.count(TRAIN, V), 16)
    learner, later = learner_of(model, config, TRAIN, 9000), patterned(9000, 2)
    found = [learner.nats(later[:4096]), learner.nats(later[4096:])]
    for start, nats in zip((0, 4096), found, strict=True):
        so_far = np.concatenate([TRAIN, later[:start]])
        recounted: NGramModel = choose(TRAIN, V, order=recipe.order).count(so_far, V)
        stop = start + len(nats)
        expected = -recounted.log_probs(later[start:stop], context=so_far)
        np.testing.assert_allclose(nats, expected, rtol=1e-4, atol=1e-4)


def test_of_a_long_text_the_last_tokens_are_counted() -> None:
    ngrams = choose(TRAIN, V, order=1).count(TRAIN, V)
    counts = GrowingCounts(ngrams, ModelConfig(model="ngram", **SHAPE), TRAIN, every=1)
    counts.read(np.zeros(COUNTED_IN_ALL, np.uint8))
    assert counts.renew()
    # Nothing of the training text is among them.
    assert np.exp(counts.ngrams.log_probs(np.array([5]), context=np.array([0]))) < 1e-5


def test_with_too_little_time_evenly_spaced_pieces_are_measured() -> None:
    model, config = made("gpt")
    tokenizer, later = hb.CharTokenizer.from_text("abcdefghijk"), patterned(40_000, 1)
    frozen = losses(model, later, block_size=config.context_size)

    def measure(seconds: float | None) -> Evaluation:
        ticks = count()
        return evaluate_dynamically(
            copied(model), config, tokenizer, TRAIN, later,
            frozen=frozen, seconds=seconds, clock=lambda: float(next(ticks)),
        )  # fmt: skip

    whole, part = measure(None), measure(30.0)
    assert whole.standard_error is None
    assert part.standard_error is not None
    assert 4096 <= part.positions < 20_000
    # Too high rather than too low: what is not measured is not learned either.
    assert whole.nats_per_char < part.nats_per_char < frozen.mean()
    with pytest.raises(DataError, match="at least 1 token"):
        evaluate_dynamically(copied(model), config, tokenizer, TRAIN, later[:0])


def fingerprint(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_command_leaves_the_run_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    other = tmp_path / "other.txt"
    other.write_text(TEXT[300:900], encoding="utf-8")
    list(hb.train(small_config(text, with_counts=True), out=tmp_path / "run"))
    before = fingerprint(tmp_path / "run")
    figures = []
    for corpus in ([], [], [str(other)]):
        assert command(["eval", str(tmp_path / "run"), *corpus, "--dynamic", "--json"]) == 0
        figures.append(json.loads(capsys.readouterr().out))
    assert figures[0] == figures[1]
    assert figures[0]["dynamic_positions"] == figures[0]["positions"] + 1
    assert figures[2]["dynamic_nats_per_char"] < figures[2]["nats_per_char"]
    assert command(["eval", str(tmp_path / "run"), "--dynamic"]) == 0
    assert "learning as it reads" in capsys.readouterr().out
    assert fingerprint(tmp_path / "run") == before
    text.unlink()
    assert command(["eval", str(tmp_path / "run"), str(other), "--dynamic"]) == 1
    assert "text.txt" in capsys.readouterr().err
