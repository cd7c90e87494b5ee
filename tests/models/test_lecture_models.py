"""Every rung of the ladder: causal, of the size worked out by hand, usable in every command."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hornbook as hb
from hornbook import training as engine
from hornbook.cli import run as hornbook_command
from hornbook.config import MODELS, Config, ModelConfig, preset_names
from hornbook.errors import ConfigError
from hornbook.models.registry import build

TEXT = "to be, or not to be: that is the question. whether 'tis nobler in the mind\n" * 20
LECTURE_RUNGS = ["average", "head", "heads", "feedforward", "residual", "layernorm"]


NETWORKS = [name for name in MODELS if name != "ngram"]


def rung(name: str) -> Config:
    small = {"n_embd": 32, "n_head": 4, "n_layer": 2, "block_size": 8, "compile": "off"}
    return hb.preset("laptop").override(**small) if name == "gpt" else hb.preset(name)


def tokens(*shape: int, vocab_size: int = 65) -> Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(0))


def randomised(model: nn.Module) -> nn.Module:
    """Weights away from zero, so that a path that starts at zero is seen too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_changing_a_token_changes_no_logit_before_it(name: str) -> None:
    model = randomised(build(rung(name).model, 65))
    idx = tokens(3, 8)
    for place in range(8):
        changed = idx.clone()
        changed[:, place] = (idx[:, place] + 1) % 65
        before, after = model(idx)[0], model(changed)[0]
        assert torch.equal(before[:, :place], after[:, :place])
        assert not torch.allclose(before[:, place], after[:, place])


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "bigram"])
def test_every_rung_but_the_bigram_reads_back_over_the_whole_block(name: str) -> None:
    model = randomised(build(rung(name).model, 65))
    idx = tokens(1, 8)
    changed = idx.clone()
    changed[:, 0] = (idx[:, 0] + 1) % 65
    assert not torch.allclose(model(idx)[0][:, -1], model(changed)[0][:, -1])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_shorter_context_reads_as_the_beginning_of_a_longer_one(name: str) -> None:
    model = randomised(build(rung(name).model, 65))
    idx = tokens(2, 8)
    # Without normalisation the logits run into the tens, and float32 rounds along the way.
    shorter, longer = model(idx[:, :3])[0], model(idx)[0][:, :3]
    torch.testing.assert_close(shorter, longer, rtol=1e-4, atol=1e-4)


# Hand computation for V = 65 and C = 32. Tables: VC = 2,080; 8 positions: 256; logits: 32 * 65 +
# 65 = 2,145. Heads: 3C^2 = 3,072. A block: 3,072 + projection C^2 + C = 1,056 + MLP
# 8C^2 + 5C = 8,352, so 12,480; two norms more: 4C = 128.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("bigram", 65 * 65),
        ("average", 2_080 + 64 * 65 + 65),
        ("head", 2_080 + 256 + 3_072 + 2_145),
        ("heads", 2_080 + 256 + 3_072 + 2_145),
        ("feedforward", 2_080 + 256 + 3_072 + 1_056 + 2_145),
        ("residual", 2_080 + 256 + 3 * 12_480 + 2_145),
        ("layernorm", 2_080 + 256 + 3 * (12_480 + 128) + 64 + 2_145),
        # The figure that the lecture prints for its last model: 10.788929 M.
        ("lecture", 10_788_929),
    ],
)
def test_the_number_of_parameters_is_the_one_worked_out_by_hand(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert build(hb.preset(name).model, 65).parameter_count == parameters


@pytest.mark.parametrize(("name", "above"), [("head", 0.0), ("layernorm", 1 / 6)])
def test_the_loss_at_birth_is_the_uniform_guess_and_half_the_logits_variance(
    name: str, above: float
) -> None:
    # nn.Linear draws weights of variance 1 / 3C: features of variance 1, as a final LayerNorm
    # makes them, give logits of variance 1/3, which costs half of that; a head's features are
    # near 0.
    torch.manual_seed(0)
    model = build(hb.preset(name).model, 65)
    idx, targets = tokens(256, 8), tokens(256, 8).flip(0)
    _, loss = model(idx, targets)
    assert loss.item() == pytest.approx(math.log(65) + above, abs=0.09)


@pytest.mark.parametrize("name", LECTURE_RUNGS)
def test_the_loss_at_birth_is_near_the_uniform_guess(name: str) -> None:
    torch.manual_seed(0)
    _, loss = build(hb.preset(name).model, 65)(tokens(64, 8), tokens(64, 8).flip(0))
    assert math.log(65) <= loss.item() < math.log(65) + 0.6


def test_a_head_that_asks_and_offers_nothing_is_the_average() -> None:
    torch.manual_seed(0)
    width = 32
    head = build(hb.preset("head").model, 65).double()
    with torch.no_grad():
        head.blocks.query.weight.zero_()
        head.blocks.key.weight.zero_()
        head.position_embedding_table.weight.zero_()
    average = build(hb.preset("average").model, 65).double()
    with torch.no_grad():
        average.token_embedding_table.weight.copy_(head.token_embedding_table.weight)
        average.lm_head.weight[:, :width] = 0
        average.lm_head.weight[:, width:] = head.lm_head.weight @ head.blocks.value.weight
        average.lm_head.bias.copy_(head.lm_head.bias)
    idx = tokens(4, 8)
    torch.testing.assert_close(average(idx)[0], head(idx)[0], rtol=1e-12, atol=1e-12)
    x = head.token_embedding_table(idx)
    shares = hb.average_weights(8, dtype=torch.float64).expand(4, 8, 8)
    torch.testing.assert_close(head.blocks.weights(x), shares, rtol=1e-12, atol=1e-12)


def test_heads_side_by_side_are_the_heads_one_by_one() -> None:
    torch.manual_seed(0)
    heads = hb.MultiHeadAttention(32, 4, projection=False)
    x = torch.randn(2, 8, 32)
    alone = [head(x) for head in heads.heads]
    assert [each.shape[-1] for each in alone] == [8, 8, 8, 8]
    torch.testing.assert_close(heads(x), torch.cat(alone, dim=-1))


def test_a_head_is_the_attention_that_every_faster_form_is_held_to() -> None:
    from hornbook.models.gpt import attention_reference

    torch.manual_seed(0)
    head, x = hb.Head(32, 16), torch.randn(2, 8, 32)
    q, k, v = (part(x)[:, None] for part in (head.query, head.key, head.value))
    torch.testing.assert_close(head(x), attention_reference(q, k, v)[:, 0])


def test_a_block_keeps_its_residual_path_open() -> None:
    block = hb.Block(32, 4)
    with torch.no_grad():
        for parameter in (*block.sa.proj.parameters(), *block.ffwd[2].parameters()):
            parameter.zero_()
    x = torch.randn(2, 8, 32)
    assert torch.equal(block(x), x)


def test_dropout_is_drawn_in_training_only() -> None:
    torch.manual_seed(0)
    model = build(hb.preset("layernorm").override(dropout=0.5).model, 65)
    idx = tokens(2, 8)
    assert not torch.allclose(model(idx)[0], model(idx)[0])
    model.eval()
    assert torch.equal(model(idx)[0], model(idx)[0])


@pytest.mark.parametrize("name", LECTURE_RUNGS[1:])
def test_bfloat16_keeps_the_weights_and_nearly_the_loss(name: str) -> None:
    torch.manual_seed(0)
    model = build(hb.preset(name).model, 65)
    idx, targets = tokens(4, 8), tokens(4, 8).flip(0)
    exact = model(idx, targets)[1]
    model.compute_dtype = torch.bfloat16
    logits, loss = model(idx, targets)
    assert logits.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(exact.item(), abs=0.02)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stopped_run_goes_on_to_the_same_weights_and_writes(
    name: str, text_path: Path, tmp_path: Path
) -> None:
    config = rung(name).override(
        corpus=str(text_path), steps=6, batch_size=4, eval_interval=3, checkpoint_interval=2
    )
    if name == "layernorm":
        config = config.override(dropout=0.2)
    list(hb.train(config, out=tmp_path / "whole"))
    stopped = engine.begin(config, out=tmp_path / "stopped")
    for metrics in engine.steps(stopped):
        if metrics.step == 3:
            break
    assert [m.step for m in hb.train(resume_from=tmp_path / "stopped")] == [4, 5, 6]
    whole, resumed = (hb.load(tmp_path / run, which="last") for run in ("whole", "stopped"))
    weights = whole.model.state_dict()
    assert weights
    assert all(
        torch.equal(weights[key], value) for key, value in resumed.model.state_dict().items()
    )
    assert whole.evaluate() == resumed.evaluate()
    text = whole.generate("to be", max_new_tokens=30)
    assert len(text) == 30
    assert text == resumed.generate("to be", max_new_tokens=30)


@pytest.mark.parametrize("name", ["heads", "feedforward", "residual", "layernorm"])
def test_heads_that_do_not_divide_the_width_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="multiple of 5"):
        ModelConfig(model=name, n_embd=32, n_head=5)
    assert ModelConfig(model=name, n_embd=35, n_head=5).n_head == 5


def test_the_presets_are_the_lectures_settings() -> None:
    for name in LECTURE_RUNGS:
        config = hb.preset(name)
        assert (config.model.block_size, config.model.n_embd) == (8, 32)
        assert (config.train.batch_size, config.train.steps) == (32, 5000)
        assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-3, 0.01)
        assert (config.optimizer.warmup_fraction, config.optimizer.decay_fraction) == (0, 0)
    lecture = hb.preset("lecture")
    assert lecture.model.dropout == 0.2
    assert (lecture.train.batch_size, lecture.model.block_size) == (64, 256)
    assert lecture.optimizer.learning_rate == 3e-4


def test_train_model_starts_from_the_rungs_own_settings(
    text_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train = ["train", str(text_path), "--quiet", "--steps", "2"]
    assert hornbook_command([*train, "--model", "heads", "--out", "run"]) == 0
    config = hb.load("run").config
    assert config.model == hb.preset("heads").model
    assert config.optimizer == hb.preset("heads").optimizer


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "head", "--preset", "quick"], "at odds with model = 'gpt'"),
        (["--model", "head", "--set", "model=gpt"], "at odds with model = 'gpt'"),
        (["--model", "tower"], "expected one of ngram, bigram"),
        (["--model", "head", "--resume", "run"], "model cannot be given too"),
    ],
)
def test_train_model_refuses_what_contradicts_it(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hornbook_command(["train", *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_train_model_gpt_goes_with_a_gpt_preset(text_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["--model", "gpt", "--preset", "quick", "--steps", "1", "--quiet"]
    assert hornbook_command(["train", str(text_path), *arguments, "--out", str(out)]) == 0
    assert hb.load(out).config.model == hb.preset("quick").model


def test_train_model_lecture_is_a_rung_like_any(text_path: Path, tmp_path: Path) -> None:
    tiny = ["--set", "n_embd=12", "--set", "n_layer=1", "--set", "block_size=8"]
    arguments = ["--model", "lecture", *tiny, "--steps", "1", "--quiet"]
    out = tmp_path / "run"
    assert hornbook_command(["train", str(text_path), *arguments, "--out", str(out)]) == 0
    config = hb.load(out).config
    assert (config.model.model, config.model.dropout) == ("layernorm", 0.2)


def test_every_preset_can_be_built() -> None:
    with torch.device("meta"):
        for name in preset_names():
            if name != "ngram":  # made from counts, not from settings alone
                assert build(hb.preset(name).model, 65).vocab_size == 65
