"""A network joined with counts: trained beside counts that do not know the text, and one model."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_config

import hornbook as hb
from hornbook import training as engine
from hornbook.cli import run as hornbook_command
from hornbook.config import Config, ModelConfig, SamplingConfig
from hornbook.errors import ConfigError
from hornbook.infer import tokens
from hornbook.infer.batch import Batch
from hornbook.infer.native_mixture import NativeMixture
from hornbook.infer.torch_decoder import TorchDecoder, fastest_decoder
from hornbook.models.context_counts import ContextCounts
from hornbook.models.gpt import GPT
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.ngram import CrossFit, NGramLanguageModel
from hornbook.models.registry import build
from hornbook.ngram.model import NGramModel, Smoothing, side_by_side
from hornbook.ngram.tuning import Recipe
from hornbook.runs.engine import open_engine
from hornbook.runs.verify import verify


def small(text_path: Path, **values: object) -> Config:
    return small_config(text_path, **{"with_counts": True, "order": 4, **values})


def joined(block_size: int = 24, smoothing: Smoothing = "kneser-ney") -> GPTWithCounts:
    """A small model away from its birth, so that every path is seen."""
    config = ModelConfig(block_size=block_size, n_layer=2, n_head=2, n_embd=16, with_counts=True)
    text = np.random.default_rng(0).integers(0, 7, 300)
    torch.manual_seed(0)
    model = build(config, 7, NGramModel.fit(text, 7, order=4, smoothing=smoothing))
    assert isinstance(model, GPTWithCounts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def test_it_is_born_as_the_counts_of_the_text_and_of_the_block() -> None:
    config = ModelConfig(block_size=24, n_layer=1, n_head=2, n_embd=16, with_counts=True)
    counted = NGramModel.fit(np.random.default_rng(0).integers(0, 7, 300), 7, order=4)
    model = build(config, 7, counted)
    idx_BT = torch.randint(7, (3, 24), generator=torch.Generator().manual_seed(0))
    p_BTV = NGramLanguageModel(counted, 24).lookup(idx_BT).probabilities
    expected_BTV, _ = ContextCounts(7)(idx_BT, p_BTV)
    torch.testing.assert_close(model(idx_BT)[0].softmax(-1), expected_BTV)


@pytest.mark.parametrize("vocab_size", [3, 7, 40, 1500])
def test_the_block_s_own_counts_are_those_counted_one_by_one(vocab_size: int) -> None:
    recent = ContextCounts(vocab_size)
    generator = torch.Generator().manual_seed(0)
    idx_BT = torch.randint(3, (2, 30), generator=generator)
    idx_BT[1, 15:] = idx_BT[1, :15]
    p_BTV = torch.rand(2, 30, vocab_size, generator=generator).softmax(-1)
    expected_BTV = p_BTV.clone()
    for b, text in enumerate(idx_BT.tolist()):
        for t in range(30):
            for length, strength in enumerate(
                recent.log_strength.exp().tolist(), start=recent.shortest
            ):
                followers = [
                    text[s]
                    for s in range(length, t + 1)
                    if text[s - length : s] == text[t + 1 - length : t + 1]
                ]
                counts = torch.tensor([followers.count(token) for token in range(vocab_size)])
                expected_BTV[b, t] = (counts + strength * expected_BTV[b, t]) / (
                    len(followers) + strength
                )
    found_BTV, came_BTR = recent(idx_BT, p_BTV)
    torch.testing.assert_close(found_BTV, expected_BTV)
    assert came_BTR[1, -1].sum() > 0
    last_BTV, last_BTR = recent(idx_BT, p_BTV[:, -1:])
    torch.testing.assert_close(last_BTV, found_BTV[:, -1:])
    assert torch.equal(last_BTR, came_BTR[:, -1:])


def test_pairs_too_rare_to_tell_are_left_to_longer_runs() -> None:
    shortest = {n: ContextCounts(n).shortest for n in (2, 27, 65, 256, 1300, 100_000)}
    assert shortest == {2: 10, 27: 3, 65: 2, 256: 2, 1300: 1, 100_000: 1}


def test_changing_a_token_changes_no_logit_before_it() -> None:
    model = joined()
    idx_BT = torch.randint(7, (2, 60), generator=torch.Generator().manual_seed(1))
    for place in range(0, 60, 7):
        changed_BT = idx_BT.clone()
        changed_BT[:, place] = (idx_BT[:, place] + 1) % 7
        before, after = model(idx_BT)[0], model(changed_BT)[0]
        assert torch.equal(before[:, :place], after[:, :place])
        assert not torch.allclose(before[:, place], after[:, place])


def test_decoding_with_the_cache_is_rereading() -> None:
    model = joined()
    texts = []
    for cached in (True, False):
        batch = Batch(TorchDecoder(model, cached=cached))
        for seed in (1, 2):
            batch.add([1, 2, 3], seed=seed)
        texts.append([batch.step() for _ in range(40)])
    assert texts[0] == texts[1]


def test_in_c_it_writes_what_torch_rereading_everything_writes() -> None:
    model = joined()
    decoder = fastest_decoder(model)
    if not isinstance(decoder, NativeMixture):
        pytest.skip("no C compiler here")
    for prompt in ([1], [1, 2, 3], [n % 7 for n in range(23)], [n % 5 for n in range(60)]):
        for temperature in (0, 1):
            texts = []
            for each in (decoder, TorchDecoder(model, cached=False)):
                asked = SamplingConfig(temperature=temperature)
                drawn = tokens(each, prompt, sampling=asked, seed=5)
                texts.append(list(itertools.islice(drawn, 70)))
            assert texts[0] == texts[1]


@pytest.mark.parametrize("smoothing", ["mle", "add-k", "witten-bell", "kneser-ney"])
def test_in_c_its_logits_are_torch_s(smoothing: Smoothing) -> None:
    model = joined(smoothing=smoothing)
    decoder = fastest_decoder(model, rows=3)
    if not isinstance(decoder, NativeMixture):
        pytest.skip("no C compiler here")
    idx = torch.randint(7, (24,), generator=torch.Generator().manual_seed(1))
    expected_TV = model(idx[None])[0][0].detach().numpy()
    texts = idx.tolist()
    # In pieces, then again from the middle, where what was read before is forgotten.
    for start, stop in ((0, 5), (5, 6), (6, 24), (9, 13), (0, 24)):
        found_V = decoder.forward([texts[start:stop]], [0], [start])[0]
        np.testing.assert_allclose(found_V, expected_TV[stop - 1], rtol=1e-4, atol=1e-4)
    # Rows of different lengths, whose neighbours change no bit.
    decoder.forward([texts[:9]], [2], [0])
    found_RV = decoder.forward([texts, texts[9:14]], [1, 2], [0, 9])
    np.testing.assert_array_equal(found_RV[0], found_V)
    np.testing.assert_array_equal(found_RV[1], decoder.forward([texts[:14]], [0], [0])[0])
    with pytest.raises(IndexError):
        decoder.forward([[7]], [0], [0])


def test_texts_side_by_side_are_those_alone(text_path: Path, tmp_path: Path) -> None:
    list(hb.train(small(text_path), out=tmp_path / "run"))
    together = open_engine(tmp_path / "run", rows=3)
    streams = together.streams("to be", seeds=(1, 2, 3), max_new_tokens=80)
    texts = ["".join(text) for text in streams]
    for seed, text in zip((1, 2, 3), texts, strict=True):
        assert text == hb.load(tmp_path / "run").generate("to be", max_new_tokens=80, seed=seed)
    if "in C" in together.why:
        script = (
            "import sys; from hornbook.runs.engine import open_engine; open_engine(sys.argv[1]); "
        )
        script += "assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], check=True)
    with pytest.raises(ConfigError, match="int8"):
        open_engine(tmp_path / "run", weights="int8")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_no_block_is_asked_of_counts_that_have_seen_it(seed: int, n_parts: int) -> None:
    """Each token's followers are all different, so that to have seen a place is to know it."""
    block_size, length = 8, 200
    before = np.arange(length, length + 2 * block_size)  # what was not counted at all
    vocab_size = length + len(before)
    text = np.random.default_rng(seed).permutation(length)
    cross_fit = CrossFit.count(
        text, vocab_size, Recipe(3), block_size=block_size, context_size=24, n_parts=n_parts
    )
    starts_B = np.arange(-len(before), length - block_size)
    places = starts_B[:, None] + len(before) + np.arange(block_size + 1)
    windows = torch.from_numpy(np.concatenate([before, text])[places])
    p_BTV = cross_fit.lookup(windows[:, :-1], starts_B, block_size).probabilities
    p_BT = p_BTV.gather(-1, windows[:, 1:, None])[..., 0]
    knowing = NGramLanguageModel(NGramModel.fit(text, vocab_size, order=3), block_size)
    known_BTV = knowing.lookup(windows[:, :-1]).probabilities
    known_BT = known_BTV.gather(-1, windows[:, 1:, None])[len(before) :]
    assert p_BT.max() < 2 / length < 0.1 < known_BT.min()
    torch.testing.assert_close(p_BTV.sum(-1), torch.ones(len(starts_B), block_size))


@pytest.mark.parametrize("smoothing", ["mle", "add-k", "witten-bell", "kneser-ney"])
def test_models_side_by_side_say_what_each_says_alone(smoothing: Smoothing) -> None:
    texts = np.random.default_rng(0).integers(0, 7, (3, 200))

    def counted() -> list[NGramModel]:
        return [NGramModel.fit(text, 7, order=3, smoothing=smoothing) for text in texts]

    alone, together = counted(), NGramLanguageModel(side_by_side(counted()), 24)
    idx_BT = torch.randint(7, (6, 24), generator=torch.Generator().manual_seed(0))
    model_B = torch.tensor([2, 0, 1, 1, 2, 0])
    for last in (24, 5):
        found = together.lookup(idx_BT, last=last, model_B=model_B)
        for row, model in enumerate(model_B.tolist()):
            expected = NGramLanguageModel(alone[model], 24).lookup(idx_BT[row : row + 1], last=last)
            for each, wanted in zip(found, expected, strict=True):
                torch.testing.assert_close(each[row : row + 1], wanted)


def test_less_of_a_text_can_be_counted(text_path: Path, tmp_path: Path) -> None:
    config = small(text_path, counted_tokens=50)
    list(hb.train(config, out=tmp_path / "run"))
    counted = hb.load(tmp_path / "run").model
    assert isinstance(counted, GPTWithCounts)
    whole = engine.begin(small(text_path), out=tmp_path / "whole")
    assert isinstance(whole.state.model, GPTWithCounts)
    with whole.lock:
        n_grams = [len(model.counts.tables[-1].keys) for model in (counted, whole.state.model)]
    assert n_grams[0] <= 50
    assert n_grams[0] < n_grams[1]


def test_the_last_positions_are_counted_as_they_are_among_all() -> None:
    model = joined()
    idx_BS = torch.randint(7, (2, 60), generator=torch.Generator().manual_seed(3))
    for last in (1, 2, 10, 60):
        for part, whole in zip(
            model.counts.lookup(idx_BS, last=last), model.counts.lookup(idx_BS), strict=True
        ):
            torch.testing.assert_close(part, whole[:, -last:])


def test_what_comes_before_the_targets_is_there_for_the_counts_alone() -> None:
    model = joined()
    idx_BS = torch.randint(7, (2, 60), generator=torch.Generator().manual_seed(4))
    idx_BS[:, 30:] = idx_BS[:, :30]
    targets_BT = idx_BS[:, -24:]
    loss = model(idx_BS, targets_BT)[1]
    hidden = model.network.hidden(idx_BS[:, -24:])
    logits = model.join(hidden, model.counts.lookup(idx_BS, last=24), idx_BS)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets_BT.flatten())
    torch.testing.assert_close(loss, expected)
    changed_BS = idx_BS.clone()
    changed_BS[:, 20] = (idx_BS[:, 20] + 1) % 7
    assert model(changed_BS, targets_BT)[1] != loss


def test_rows_are_asked_of_their_own_part_whatever_their_order() -> None:
    text = np.random.default_rng(0).integers(0, 5, 400)
    cross_fit = CrossFit.count(text, 5, Recipe(3), block_size=8, context_size=8, n_parts=4)
    starts_B = np.array([399 - 8, 5, 250, 6, 120])
    windows = torch.from_numpy(text[starts_B[:, None] + np.arange(8)])
    together = cross_fit.lookup(windows, starts_B, 8)
    for row in range(len(starts_B)):
        alone = cross_fit.lookup(windows[row : row + 1], starts_B[row : row + 1], 8)
        torch.testing.assert_close(together.probabilities[row], alone.probabilities[0])
        torch.testing.assert_close(together.backoff[row], alone.backoff[0])


@pytest.mark.parametrize("variant", [{}, {"dropout": 0.2, "gradient_accumulation": 2}])
def test_resumed_is_uninterrupted_to_the_bit(
    text_path: Path, tmp_path: Path, variant: dict[str, object]
) -> None:
    config = small(text_path, **variant)
    list(hb.train(config, out=tmp_path / "whole"))
    steps = hb.train(config, out=tmp_path / "stopped")
    for metrics in steps:
        if metrics.step == 5:
            steps.close()
    list(hb.train(resume_from=tmp_path / "stopped"))
    one, other = (
        hb.load(tmp_path / name, which="last").model.state_dict() for name in ("whole", "stopped")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    sound = (tmp_path / "whole" / "checkpoints" / "counts-00000000").is_dir()
    assert sound, "the counts are kept, once"


def test_what_was_saved_needs_no_text(text_path: Path, tmp_path: Path) -> None:
    trainer = engine.begin(small(text_path), out=tmp_path / "run")
    list(engine.steps(trainer))
    text_path.unlink()
    assert verify(tmp_path / "run").sound
    loaded = hb.load(tmp_path / "run", which="last")
    assert isinstance(loaded.model, GPTWithCounts)
    idx_BT = torch.tensor([loaded.tokenizer.encode("to be, or not to")])
    trainer.state.model.eval()
    # Loaded, counts are read in C.
    torch.testing.assert_close(loaded.model(idx_BT)[0], trainer.state.model(idx_BT)[0])
    assert len(loaded.generate("to be", max_new_tokens=40, seed=1)) == 40
    written = loaded.generate("to be, or not to be: that", max_new_tokens=12, temperature=0)
    assert written == " is nobler i"


def test_counts_help_a_network_on_a_text_of_many_characters(
    text_path: Path, tmp_path: Path
) -> None:
    korean = tmp_path / "korean.txt"
    lines = ("나는 왕이로소이다", "어머님의 가장 어여쁜 아들", "가장 가난한 농군의 아들로서")
    korean.write_text("\n".join(lines * 20), encoding="utf-8")
    losses = []
    for with_counts in (True, False):
        out = tmp_path / str(with_counts)
        list(hb.train(small(korean, with_counts=with_counts, steps=5), out=out))
        losses.append(hb.load(out).evaluate().nats_per_char)
    assert losses[0] < losses[1] - 1


def test_muon_takes_the_network_s_matrices_as_it_does_without_counts(text_path: Path) -> None:
    trainer = engine.begin(small(text_path), out=text_path.parent / "run")
    assert isinstance(trainer.state.model, GPTWithCounts)
    assert isinstance(trainer.state.model.network, GPT)
    engine.train_step(trainer)
    names = trainer.state.optimizers.tensors()
    assert "network.blocks.0.mlp.up.weight/momentum_buffer" in names
    assert "trust.weight/exp_avg" in names


def test_with_counts_by_command(
    text_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    asked = ["train", str(text_path), "--preset", "quick", "--with-counts", "--steps", "2"]
    assert hornbook_command([*asked, "--set", "block_size=16", "--out", out]) == 0
    shown = capsys.readouterr()
    assert "network + n-grams" in shown.out
    assert "n-grams of up to" in " ".join(shown.err.split())
    assert hornbook_command(["sample", out, "--max-new-tokens", "5"]) == 0
    assert hornbook_command(["train", str(text_path), "--with-counts", "--model", "bigram"]) == 2
    assert "with_counts" in capsys.readouterr().err
