"""A network with a mixer: as a run that trains, loads, generates and is verified."""

import math
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from small import small_config

import hornbook as hb
from hornbook import training
from hornbook.cli import run as hornbook_command
from hornbook.config import Config
from hornbook.errors import CheckpointError, ConfigError
from hornbook.eval.dynamic import copied, evaluate_dynamically, keeping_logits, learner_of
from hornbook.eval.loss import losses
from hornbook.infer.mixing_decoder import MixingDecoder
from hornbook.infer.torch_decoder import TorchDecoder
from hornbook.models.first_pass import FirstPass
from hornbook.models.mixing import Mixing
from hornbook.runs.engine import open_engine
from hornbook.runs.folder import RunFolder
from hornbook.runs.load import NoMixerWarning, mixer_path, save_mixer
from hornbook.runs.verify import verify
from hornbook.training.mixing import first_pass

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "the",
    "dog",
    "ran",
    "to",
    "the",
    "barn",
    "where",
    "an",
    "owl",
    "was",
    "asleep",
]


def text_of_words() -> str:
    """Lines of random words: 14 thousand characters, of which a mixer is learned."""
    random = np.random.default_rng(0)
    return "".join(
        " ".join(WORDS[random.integers(3, len(WORDS)) if i % 3 else 0] for i in range(6)) + "\n"
        for _ in range(600)
    )


def settings(text: Path, **values: object) -> Config:
    return small_config(text, **{"with_mixer": True, "with_counts": True, "order": 4, **values})


def finished(config: Config, out: Path) -> Path:
    """The folder of a run that was trained to its end."""
    list(hb.train(config, out=out))
    return out


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixing") / "words.txt"
    path.write_text(text_of_words(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(text: Path) -> Path:
    return finished(settings(text), text.parent / "run")


def test_the_mixer_is_better_than_its_network(run: Path) -> None:
    mixed, alone = hb.load(run), hb.load(run, mixed=False)
    assert isinstance(mixed.model, Mixing)
    loss = mixed.evaluate().nats_per_char
    assert loss < alone.evaluate().nats_per_char - 0.05


def test_all_ways_to_read_say_the_same(run: Path) -> None:
    trained = hb.load(run)
    window_BT = torch.from_numpy(trained.dataset().validation[:90].astype(np.int64).reshape(2, 45))
    logits_BTV, _ = trained.model(window_BT[:, :-1])
    torch.testing.assert_close(logits_BTV.exp().sum(-1), torch.ones(2, 44), atol=1e-5, rtol=0)
    said = -logits_BTV.gather(2, window_BT[:, 1:, None])[..., 0]
    torch.testing.assert_close(
        said.double(),
        trained.model.token_losses(window_BT[:, :-1], window_BT[:, 1:]),
        atol=1e-4,
        rtol=0,
    )
    assert isinstance(trained.model, Mixing)
    in_torch = MixingDecoder(TorchDecoder(trained.model.network), trained.model.mixer)
    for decoder in (trained.engine().decoder, in_torch, open_engine(run).decoder):
        assert isinstance(decoder, MixingDecoder)
        last = decoder.forward([window_BT[0, :-1].tolist()], [0], [0])
        np.testing.assert_allclose(last[0], logits_BTV[0, -1].detach(), atol=2e-3)


def test_a_text_does_not_depend_on_its_neighbours_or_its_pieces(run: Path) -> None:
    trained = hb.load(run)
    decoder, tokens = trained.engine(rows=3).decoder, trained.dataset().validation.tolist()
    alone = decoder.forward([tokens[:40]], [1], [0])[0]
    assert (decoder.forward([tokens[40:60], tokens[:30]], [0, 1], [0, 0])[1] != alone).any()
    for token in range(30, 39):
        decoder.forward([[tokens[token]], [tokens[token + 30]]], [1, 0], [token, token - 10])
    assert (decoder.forward([[tokens[39]]], [1], [39])[0] == alone).all()
    # Beside a prompt: the row that goes on by a token is not read with it.
    decoder.forward([tokens[:39]], [1], [0])
    both = decoder.forward([tokens[50:65], [tokens[39]]], [0, 1], [0, 39])
    assert (both[1] == alone).all()
    assert (both[0] == decoder.forward([tokens[50:65]], [0], [0])[0]).all()
    # Begun anew, and from the middle.
    decoder.forward([tokens[70:80]], [1], [20])
    assert (decoder.forward([tokens[20:40]], [1], [20])[0] == alone).all()
    assert (decoder.forward([tokens[:40]], [1], [0])[0] == alone).all()
    for bad in ([[]], [[trained.tokenizer.vocab_size]], [[-1]]):
        with pytest.raises(IndexError, match="expected tokens below"):
            decoder.forward(bad, [0], [0])
    with pytest.raises(IndexError, match="expected tokens below"):
        decoder.forward([[0]], [2], [1])


def test_a_resumed_run_has_the_same_mixer(text: Path, run: Path, tmp_path: Path) -> None:
    trainer = training.begin(settings(text), out=tmp_path / "run")
    for metrics in training.steps(trainer):
        if metrics.step == 5:
            break
    resumed = training.resume(tmp_path / "run")
    list(training.steps(resumed))
    (mixer,) = (tmp_path / "run" / "checkpoints").glob("mixer-*")
    expected = run / "checkpoints" / mixer.name / "mixer.safetensors"
    assert (mixer / "mixer.safetensors").read_bytes() == expected.read_bytes()


def test_a_stopped_run_leaves_no_thread(text: Path, tmp_path: Path) -> None:
    def readers() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "hornbook-read"]

    def all_end() -> bool:
        for each in readers():
            each.join(5)
        return not readers()

    assert all_end()
    trainer = training.begin(settings(text), out=tmp_path / "run")
    assert trainer.first_pass
    for _ in training.steps(trainer):
        break
    assert all_end()
    # What was begun to be read before is gone on with where it is of the same text, and ended else.
    data = trainer.dataset
    held_out = trainer.config.model.held_out(len(data.train))
    for tokens, kept in ((data.train, True), (data.train[1:], False)):
        reading = FirstPass(data.tokenizer, tokens, held_out)
        found = first_pass(trainer.config, data, reading)
        assert (found is reading) == kept
        assert found is not None
        found.stop()
    assert all_end()


def test_a_mixer_of_other_weights_is_not_used(run: Path, tmp_path: Path) -> None:
    longer = tmp_path / "run"
    shutil.copytree(run, longer)
    for metrics in training.steps(training.resume(longer, steps=10)):
        if metrics.step == 9:
            break
    assert not isinstance(hb.load(longer, which="last").model, Mixing)


def test_a_damaged_mixer_is_found(run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged)
    assert verify(damaged).sound
    (mixer,) = (damaged / "checkpoints").glob("mixer-*/mixer.safetensors")
    data = bytearray(mixer.read_bytes())
    data[len(data) // 2] ^= 1
    mixer.write_bytes(data)
    (fault,) = [each for each in verify(damaged).files if not each.sound]
    assert "SHA-256" in str(fault.fault)
    with pytest.raises(CheckpointError, match="SHA-256"):
        hb.load(damaged)


def test_a_mixer_of_another_version_is_left_out(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "run"
    shutil.copytree(run, older)
    trained = hb.load(run)
    shutil.rmtree(mixer_path(RunFolder(older), trained.step))
    with monkeypatch.context() as before:
        before.setattr("hornbook.models.mixer.FORMAT", 1)
        save_mixer(RunFolder(older), trained.step, trained.model.mixer)
    with pytest.warns(NoMixerWarning, match="expected format 3, got 1"):
        assert not isinstance(hb.load(older).model, Mixing)


@pytest.mark.parametrize(
    "changes", [{"tokenizer": "byte"}, {"with_counts": False}, {"tokenizer": "bpe"}]
)
def test_other_tokens_and_a_network_without_counts_have_one_too(
    text: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    out = finished(settings(text, **{"bpe_vocab_size": 256, "steps": 2, **changes}), tmp_path / "a")
    mixed = hb.load(out)
    assert isinstance(mixed.model, Mixing)
    assert mixed.evaluate().nats_per_char < hb.load(out, mixed=False).evaluate().nats_per_char
    assert len(open_engine(out).generate("the ", max_new_tokens=5)) > 0


def test_it_learns_from_fewer_tokens_than_are_held_out(text: Path, tmp_path: Path) -> None:
    """As in a run of ten seconds, which ended as a bug."""
    config = settings(text, steps=2, counted_tokens=200)
    out = finished(config, tmp_path / "run")
    trained = hb.load(out)
    assert isinstance(trained.model, Mixing)
    assert (
        config.model.held_out(len(trained.dataset().train)) > 200 == len(trained.model.mixer.text)
    )
    assert math.isfinite(trained.evaluate().nats_per_char)


def test_too_short_a_text_has_none(text_path: Path, tmp_path: Path) -> None:
    out = finished(settings(text_path, steps=2), tmp_path / "run")
    assert not list((out / "checkpoints").glob("mixer-*"))
    assert not isinstance(hb.load(out).model, Mixing)


def test_by_command(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    asked = ["train", str(text), "--preset", "quick", "--with-counts", "--steps", "2"]
    assert hornbook_command([*asked, "--set", "block_size=16", "--out", out]) == 0
    assert list(Path(out, "checkpoints").glob("mixer-*"))
    assert hornbook_command(["verify", out]) == 0
    assert "a mixer of" in capsys.readouterr().out
    without = [*asked, "--set", "with_mixer=false", "--set", "block_size=16", "--out", out + "2"]
    assert hornbook_command(without) == 0
    assert not list(Path(out + "2", "checkpoints").glob("mixer-*"))
    with pytest.raises(ConfigError, match="with_mixer"):
        Config().override(model="bigram", with_mixer=True)


def test_dynamic_evaluation_learns_with_mixer_and_network(run: Path) -> None:
    trained = hb.load(run)
    data = trained.dataset()
    tables = trained.model.mixer.lines.tobytes(), trained.model.mixer.weights.tobytes()
    found, again = (trained.evaluate_dynamically(data.train, data.validation) for _ in range(2))
    assert found == again
    assert found.positions == len(data.validation)
    # Of so short a text the mixer has learned all; the first token is predicted too.
    assert found.nats_per_token < trained.evaluate().nats_per_token + 0.01
    assert (trained.model.mixer.lines.tobytes(), trained.model.mixer.weights.tobytes()) == tables
    part = trained.evaluate_dynamically(data.train, data.validation, max_positions=500)
    assert part.positions < len(data.validation)
    assert found.nats_per_token < part.nats_per_token + 0.02


def test_with_too_little_time_the_network_rests_and_all_is_read(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hornbook.eval.dynamic.PIECE", 64)
    trained = hb.load(run)
    data, model = trained.dataset(), copied(trained.model)
    steps: list[int] = []
    next(model.parameters()).register_hook(lambda _: steps.append(1))
    found = evaluate_dynamically(
        model, trained.config.model, trained.tokenizer, data.train, data.validation,
        seconds=12.0, clock=lambda: float(len(steps)),
    )  # fmt: skip
    assert found.positions == len(data.validation)
    assert 2 <= len(steps) < len(data.validation) // 64
    assert found.nats_per_char < trained.evaluate().nats_per_char + 0.01


def test_a_resting_network_says_what_it_said_when_it_was_frozen(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = hb.load(run)
    data, config, model = trained.dataset(), trained.config, trained.model
    tokens, size = data.validation, trained.config.model.context_size
    with keeping_logits(model, tokens) as logits:
        losses(model, tokens, block_size=size)
    assert logits is not None
    for start in range(0, len(tokens) - 1, size):
        window = torch.from_numpy(tokens[start : start + size + 1].astype(np.int64))[None, :-1]
        expected = model.network(window)[0][0].detach().numpy()
        np.testing.assert_allclose(logits[start : start + size], expected, atol=1e-5)
    learner = learner_of(copied(model), config.model, data.train, len(tokens), frozen_logits=logits)
    learner.rest()
    found = np.concatenate([learner.nats(piece) for piece in np.split(tokens, [50, 128, 700])])
    reader = model.mixer.copy().learner()
    expected = np.concatenate([reader.read(tokens[:1]), reader.read(tokens[1:], logits)])
    np.testing.assert_array_equal(found, expected)

    # With no time at all, and with no more steps than training has taken, all is measured.
    for limits in ({"seconds": 0.0}, {"max_positions": 1}):
        part = trained.evaluate_dynamically(data.train, tokens, frozen_logits=logits, **limits)
        assert part.positions == len(tokens)
        assert part.standard_error is None
        assert part.nats_per_token == pytest.approx(found.mean(), rel=0.01)
    monkeypatch.setattr("hornbook.eval.dynamic.MOST_KEPT", 1000)
    for other in (model, model.network):
        with keeping_logits(other, tokens) as none:
            assert none is None


def test_a_prediction_that_learns_sees_no_later_token(run: Path) -> None:
    trained = hb.load(run)
    data, config = trained.dataset(), trained.config.model
    later = data.validation.copy()
    later[300:] = later[300:][::-1]

    def nats(tokens: np.ndarray) -> np.ndarray:
        learner = learner_of(copied(trained.model), config, data.train, len(tokens))
        return np.concatenate([learner.nats(piece) for piece in np.split(tokens, [128, 256, 640])])

    np.testing.assert_allclose(nats(later)[:256], nats(data.validation)[:256], rtol=1e-5)
    np.testing.assert_allclose(nats(later)[256:300], nats(data.validation)[256:300], rtol=1e-3)


def test_a_copied_row_is_the_row_that_it_was_copied_from(run: Path) -> None:
    trained = hb.load(run)
    decoder, tokens = trained.engine(rows=2).decoder, trained.dataset().validation.tolist()
    whole = decoder.forward([tokens[:50]], [0], [0])[0]
    decoder.copy(0, 1, 30)
    assert (decoder.forward([tokens[30:50]], [1], [30])[0] == whole).all()
    with pytest.raises(IndexError):
        decoder.copy(0, 1, 51)


def test_what_is_seen_and_what_if_the_mixer_is_off(run: Path) -> None:
    trained, alone = hb.load(run), hb.load(run, mixed=False)
    text = "the dog ran\n"
    seen, plain = trained.look(text), alone.look(text)
    np.testing.assert_array_equal(seen.attention, plain.attention)
    assert [*seen.votes] == ["network", "ngrams", "cache", "gate", "mixer"]
    np.testing.assert_allclose(seen.votes["mixer"].probs, seen.probs)
    moved = np.abs(seen.probs - plain.probs).sum(-1) / 2
    np.testing.assert_allclose(seen.votes["mixer"].weight, moved, atol=1e-5)
    assert moved.max() > 0.05
    said = seen.logits[np.arange(len(seen.ids)), seen.targets]
    np.testing.assert_allclose(seen.attribution.sum(0), said, atol=1e-3)

    whole = trained.evaluate().nats_per_char
    with trained.without(mixer=True):
        np.testing.assert_array_equal(trained.look(text).probs, plain.probs)
        assert trained.generate(text, max_new_tokens=30, temperature=0) == alone.generate(
            text, max_new_tokens=30, temperature=0
        )
        assert trained.evaluate().nats_per_char == pytest.approx(alone.evaluate().nats_per_char)
    assert trained.evaluate().nats_per_char == whole
    with trained.without(heads=[(0, 1)]):
        assert (trained.look(text).probs != seen.probs).any()
    with pytest.raises(ConfigError, match="without mixer"), alone.without(mixer=True):
        pass


def test_a_run_with_a_mixer_is_gone_on_from(run: Path, text: Path, tmp_path: Path) -> None:
    before = ["train", str(text), "--from", str(run), "--steps", "2"]
    assert hornbook_command([*before, "--out", str(tmp_path / "more")]) == 0
    assert isinstance(hb.load(tmp_path / "more").model, Mixing)
    without = ["--set", "with_mixer=false", "--out", str(tmp_path / "alone")]
    assert hornbook_command([*before, *without]) == 0
    assert not isinstance(hb.load(tmp_path / "alone").model, Mixing)
