"""`hb.load` of real runs: each kind can be looked into, in place or moved, with what-ifs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small import TEXT, small_config

import hornbook as hb
from hornbook.errors import UnknownCharacterError
from hornbook.runs.engine import open_engine


def trained(text_path: Path, out: Path, **values: object) -> Path:
    for _ in hb.train(small_config(text_path, **values), out=out):
        pass
    return out


def test_a_joined_run_is_seen_with_its_training_text(text_path: Path, tmp_path: Path) -> None:
    run = trained(text_path, tmp_path / "run", with_counts=True, order=4)
    model = hb.load(run)
    before = open_engine(run).generate("whether", max_new_tokens=20)
    seen = model.look("whether 'tis nobler")
    assert seen.model is model
    ngrams = seen.votes["ngrams"]
    assert ngrams.count[-1] == TEXT[: int(0.9 * len(TEXT))].count("ler")
    assert ngrams.matched[-1] == 3
    model_loss = model.evaluate_text(TEXT).nats_per_char
    with model.without(ngrams=True) as changed:
        alone = changed.look("whether 'tis nobler")
        assert changed.evaluate_text(TEXT).nats_per_char > model_loss
    assert alone.model is None
    # A notebook shows the page of the model as it is, and of a changed one the picture alone.
    assert seen._repr_html_().startswith("<iframe")
    assert "<details>" in seen._repr_html_()
    assert "<iframe" not in alone._repr_html_()
    np.testing.assert_allclose(alone.probs, seen.votes["network"].probs, rtol=1e-5, atol=1e-7)
    assert model.look("whether 'tis nobler").probs.tobytes() == seen.probs.tobytes()
    assert open_engine(run).generate("whether", max_new_tokens=20) == before


def test_without_its_text_only_the_counts_are_missing(text_path: Path, tmp_path: Path) -> None:
    run = trained(text_path, tmp_path / "run", model="ngram", order=3, steps=1)
    text_path.unlink()
    vote = hb.load(run).look("to be").votes["ngrams"]
    assert vote.count is None
    assert list(vote.matched) == [1, 2, 2, 2, 2]


def test_line_ends_and_unknown_characters_are_as_in_generation(
    text_path: Path, tmp_path: Path
) -> None:
    model = hb.load(trained(text_path, tmp_path / "run", model="bigram"))
    assert model.look("be\r\nto").tokens == ("b", "e", "\n", "t", "o")
    with pytest.raises(UnknownCharacterError, match="does not know"):
        model.look("be ©")
    assert torch.is_grad_enabled()
