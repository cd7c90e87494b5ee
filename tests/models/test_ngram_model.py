"""Counts as a model of the ladder: the same figures, kept whole, refused when damaged."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hornbook as hb
from hornbook.cli import run as hornbook_command
from hornbook.config import Config, ModelConfig
from hornbook.errors import CheckpointError, ConfigError, DataError
from hornbook.eval.loss import losses
from hornbook.models.ngram import NGramLanguageModel
from hornbook.models.registry import build
from hornbook.ngram.model import NGramModel
from hornbook.ngram.tuning import choose
from hornbook.runs.folder import RunFolder
from hornbook.runs.load import load_counts
from hornbook.runs.verify import verify
from hornbook.storage import checkpoint
from hornbook.text.tokenizer import load_tokenizer

TEXT = "to be, or not to be: that is the question. whether 'tis nobler in the mind\n" * 20
SMOOTHINGS = ("mle", "add-k", "witten-bell", "kneser-ney")


def ngrams(path: Path, **values: object) -> Config:
    return hb.preset("ngram").override(corpus=str(path), block_size=32, sample_tokens=5, **values)


def random_tokens(n_tokens: int, vocab_size: int, seed: int = 0) -> np.ndarray:
    """Tokens that repeat enough for long n-grams."""
    random = np.random.default_rng(seed)
    words = [random.integers(vocab_size, size=random.integers(2, 6)) for _ in range(30)]
    text = np.concatenate([words[i] for i in random.zipf(1.5, size=n_tokens) % 30])
    return text[:n_tokens]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 2, 5])
def test_a_block_at_once_is_token_by_token(smoothing: str, order: int) -> None:
    text = random_tokens(800, 9)
    counted = NGramModel.fit(text[:600], 9, order=order, smoothing=smoothing)
    model = NGramLanguageModel(counted, context_size=50)
    idx_BT = torch.from_numpy(text[600:800]).view(4, 50)
    logits_BTV, loss = model(idx_BT)
    assert loss is None
    torch.testing.assert_close(logits_BTV.exp().sum(-1), torch.ones(4, 50))
    for row, logits_TV in zip(idx_BT.numpy(), logits_BTV, strict=True):
        for t in (0, 1, 7, 49):
            found = counted.probs(row[: t + 1])
            np.testing.assert_allclose(logits_TV[t].exp(), found, atol=1e-6)
    torch.testing.assert_close(model.next_logits(idx_BT), logits_BTV[:, -1])


def test_the_exact_loss_is_the_counted_model_s_own_across_blocks() -> None:
    text = random_tokens(900, 9)
    counted = NGramModel.fit(text[:600], 9, order=5)
    model = NGramLanguageModel(counted, context_size=16)
    whole = -counted.log_probs(text[601:], context=text[600:601])
    np.testing.assert_allclose(losses(model, text[600:], block_size=16), whole, rtol=1e-4)


def test_counting_is_a_run_like_any_other(text_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (metrics,) = hb.train(ngrams(text_path, order=4, steps=7), out=out)
    assert metrics.step == 1
    assert metrics.val_loss is not None
    trained = hb.load(out)
    assert isinstance(trained.model, NGramLanguageModel)
    assert trained.model.order == 4
    train, validation = (trained.tokenizer.encode(part) for part in (TEXT[:1350], TEXT[1350:]))
    recipe = choose(train, trained.tokenizer.vocab_size, order=4)
    counted = recipe.count(train, trained.tokenizer.vocab_size)
    expected = counted.cross_entropy(validation[1:], context=validation[:1])
    assert trained.evaluate().nats_per_token == pytest.approx(expected, abs=1e-5)
    assert len(trained.generate("to be", max_new_tokens=20, seed=3)) == 20
    assert list(hb.train(resume_from=out)) == []
    assert verify(out).sound


def test_maximum_likelihood_may_be_infinitely_surprised(
    text_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text_path.write_text(TEXT + "to be. to be! to be; whether!", encoding="utf-8")
    out = str(tmp_path / "run")
    asked = ["train", str(text_path), "--model", "ngram", "--set", "smoothing=mle", "--order", "3"]
    assert hornbook_command([*asked, "--out", out]) == 0
    assert "inf" in capsys.readouterr().out
    assert hornbook_command(["eval", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nats_per_char"] is None
    assert hornbook_command(["sample", out, "--prompt", "to be!", "--max-new-tokens", "9"]) == 0


def test_counts_in_a_language_of_many_characters(tmp_path: Path, text_path: Path) -> None:
    korean = tmp_path / "korean.txt"
    korean.write_text(
        "나는 왕이로소이다 나는 왕이로소이다 어머님의 가장 어여쁜 아들\n" * 20, "utf-8"
    )
    out = tmp_path / "run"
    list(hb.train(ngrams(korean, smoothing="witten-bell"), out=out))
    assert hb.load(out).evaluate().nats_per_char < 1
    assert (
        hb.load(out).generate("나는", max_new_tokens=10, temperature=0).startswith(" 왕이로소이다")
    )


def test_tables_are_read_where_they_lie(text_path: Path, tmp_path: Path) -> None:
    list(hb.train(ngrams(text_path, order=4), out=tmp_path / "run"))
    folder = RunFolder(tmp_path / "run")
    counted = load_counts(folder, load_tokenizer(folder.tokenizer))
    copied = checkpoint.read(folder.counts).tensors["counts"]
    assert counted.arrays().keys() == copied.keys()
    for name, array in counted.arrays().items():
        np.testing.assert_array_equal(array, copied[name].numpy())
    model = NGramLanguageModel(counted, context_size=16)
    for level, table in zip(counted.levels, model.tables, strict=True):
        assert np.shares_memory(level.keys, table.keys.numpy())
        assert np.shares_memory(level.probs, table.kept.numpy())
    # What is written to them stays in this process.
    before = folder.counts.joinpath("counts.safetensors").read_bytes()
    counted.levels[-1].probs[0] += 1
    assert folder.counts.joinpath("counts.safetensors").read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be removed there")
def test_a_run_moved_or_removed_while_it_is_read_is_read_on(
    text_path: Path, tmp_path: Path
) -> None:
    list(hb.train(ngrams(text_path, order=4), out=tmp_path / "run"))
    kept, moved = hb.load(tmp_path / "run"), tmp_path / "moved"
    (tmp_path / "run").rename(moved)
    after = hb.load(moved)
    shutil.rmtree(moved)
    first, second = (each.evaluate_text(TEXT).nats_per_char for each in (kept, after))
    assert first == second


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"keys.1": 1}',
        b'{"keys.1": {"dtype": "I64", "shape": [1000000], "data_offsets": [0, 8000000]}}',
        b'{"keys.1": {"dtype": "I64", "shape": [-1], "data_offsets": [8, 0]}}',
        b'{"keys.1": {"dtype": ["I64"], "shape": [1], "data_offsets": [0, 8]}}',
        b'{"keys.1": {"dtype": "I64", "shape": [1, 1], "data_offsets": [0, 8]}}',
        b'{"keys.1": {"dtype": "I64", "shape": [1.0], "data_offsets": [0, 8]}}',
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("length", [None, 2**63, 2**64 - 1])
def test_what_is_no_table_is_refused(header: bytes, length: int | None, tmp_path: Path) -> None:
    """Whoever wrote the folder wrote the hashes too."""
    length = len(header) if length is None else length
    contents = {
        "counts.safetensors": length.to_bytes(8, "little") + header + bytes(16),
        "state.json": b'{"format": 2, "kind": "counts", "step": 0}',
    }
    folder = tmp_path / "counts-00000000"
    folder.mkdir()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    manifest = json.dumps(checkpoint.manifest_of(contents))
    (folder / checkpoint.MANIFEST).write_text(manifest, encoding="utf-8")
    with pytest.raises(CheckpointError, match="unreadable"):
        checkpoint.read_tables(folder, "counts")


def test_an_order_is_chosen_on_the_end_of_the_text() -> None:
    text = random_tokens(3000, 9)
    for smoothing in ("add-k", "witten-bell", "kneser-ney"):
        chosen = choose(text, 9, smoothing=smoothing, add_k=0.1).order

        def held_out(order: int, smoothing: str = smoothing) -> float:
            recipe = choose(text[:2700], 9, order=order, smoothing=smoothing, add_k=0.1)
            counted = recipe.count(text[:2700], 9)
            return counted.cross_entropy(text[2700:], context=text[:2700])

        assert 1 < chosen < 10
        assert held_out(chosen) < min(held_out(1), held_out(10)) + 0.02
    assert choose([0, 1, 0, 1], 2).order == 2, "too short to hold anything out"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("keys.3", lambda keys: keys.flip(0)),
        ("keys.3", lambda keys: keys + 10**9),
        ("keys.3", lambda keys: -keys),
        ("keys.3", lambda keys: keys[:-1]),
        ("keys.2", lambda keys: keys.float()),
        ("kept.2", lambda kept: kept * float("nan")),
        ("kept.2", lambda kept: kept * 2),
        ("back.2", lambda back: -back),
        ("back.2", lambda back: back[1:]),
        ("vocab_size", lambda size: size + 1),
        ("vocab_size", lambda size: size[:0]),
        ("smoothing", lambda letters: letters + 1),
        ("keys.1", None),
    ],
)
def test_tables_that_cannot_be_are_refused(text_path: Path, tmp_path: Path, name, change) -> None:
    """With hashes that fit: as from a malicious file, not a damaged one."""
    out = tmp_path / "run"
    list(hb.train(ngrams(text_path, order=3), out=out))
    tensors = load_file(out / "checkpoints" / "counts-00000000" / "counts.safetensors")
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name])
    shutil.rmtree(out / "checkpoints" / "counts-00000000")
    forged = checkpoint.Checkpoint(0, {"counts": tensors}, {})
    checkpoint.save(out / "checkpoints", "counts", forged)
    with pytest.raises(CheckpointError, match=r"n-gram model's arrays|different tokens"):
        hb.load(out)
    assert not verify(out).sound


def test_a_damaged_table_is_found_by_its_hash(text_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    list(hb.train(ngrams(text_path), out=out))
    path = out / "checkpoints" / "counts-00000000" / "counts.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        hb.load(out)
    assert [each.path for each in verify(out).files if not each.sound] == [path.parent]


def test_settings_that_cannot_be(text_path: Path) -> None:
    with pytest.raises(ConfigError, match="block_size"):
        ModelConfig(model="ngram", order=9, block_size=8)
    with pytest.raises(ConfigError, match="with_counts"):
        ModelConfig(model="ngram", with_counts=True)
    with pytest.raises(ConfigError, match="NGramModel"):
        build(hb.preset("ngram").model, 65)
    with pytest.raises(DataError):
        NGramModel.from_arrays({})


def test_counting_by_command(
    text_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    asked = ["train", str(text_path), "--model", "ngram", "--order", "3", "--out", out, "--json"]
    assert hornbook_command(asked) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["model"] == "ngram"
    assert result["parameters"] == 0
    assert hornbook_command(["eval", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nats_per_char"] == result["val_nats_per_char"]
    assert hornbook_command(["sample", out, "--prompt", "to be", "--max-new-tokens", "9"]) == 0
    assert len(capsys.readouterr().out) == len("to be") + 9 + 1
