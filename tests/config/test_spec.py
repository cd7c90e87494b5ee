"""A spec a model: a new model takes its file and one line of MODELS, and nothing else."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torch import Tensor, nn

import hornbook as hb
from hornbook.cli import run as hornbook_command
from hornbook.config import MODELS, Config, ModelConfig, ModelSpec, spec_of
from hornbook.errors import ConfigError
from hornbook.learn import ladder
from hornbook.models.language_model import LanguageModel

TEXT = "to be, or not to be: that is the question. whether 'tis nobler in the mind\n" * 20


class Toy(LanguageModel):
    """Each token's embedding, straight to logits."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(vocab_size, config.block_size)
        self.table = nn.Embedding(vocab_size, config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, vocab_size)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return self.logits_and_loss(self.lm_head(self.table(idx)), targets)


def check(config: ModelConfig) -> None:
    if config.n_embd > 1000:
        raise ConfigError(f"n_embd = {config.n_embd}: a toy has at most 1000")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new model: its module, and its line of MODELS."""
    module = ModuleType("toy_model")
    vars(module)["SPECS"] = {
        "toy": ModelSpec(
            idea="an embedding, straight to logits",
            network=Toy,
            parameters=lambda config, vocab_size: (2 * config.n_embd + 1) * vocab_size,
            activations=lambda config: 2.0 * config.n_embd,
            check=check,
            preset={"n_embd": 16, "block_size": 8, "compile": "off", "eval_interval": 2},
        )
    }
    monkeypatch.setitem(sys.modules, "toy_model", module)
    monkeypatch.setitem(MODELS, "toy", "toy_model")
    return "toy"


def test_a_new_model_is_trained_evaluated_and_sampled(
    toy: str, text_path: Path, tmp_path: Path
) -> None:
    config = hb.preset(toy).override(corpus=str(text_path), steps=2)
    rows = list(hb.train(config, out=tmp_path / "run"))
    assert len(rows) == 2
    assert rows[-1].val_loss is not None
    trained = hb.load(tmp_path / "run")
    vocab_size = trained.tokenizer.vocab_size
    assert isinstance(trained.model, Toy)
    assert trained.model.parameter_count == config.model.parameter_count(vocab_size)
    assert trained.evaluate().nats_per_char > 0
    assert trained.generate("to be", max_new_tokens=5)


def test_a_new_model_is_on_the_command_line_and_on_the_ladder(
    toy: str, text_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert hornbook_command(["train", str(text_path), "--model", toy, "--steps", "2", "--json",
                             "--out", out]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["kind"]) == (toy, "network")
    assert hornbook_command(["sample", out, "--max-new-tokens", "5"]) == 0
    assert ladder.ideas()[toy] == "an embedding, straight to logits"
    minutes = ["train", str(text_path), "--model", toy, "--minutes", "60", "--dry-run", "--json"]
    capsys.readouterr()
    assert hornbook_command(minutes) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["model"]["n_embd"] == 16


def test_a_new_model_checks_its_own_shape(toy: str) -> None:
    with pytest.raises(ConfigError, match="a toy has at most 1000"):
        Config().override(model=toy, n_embd=1001)
    with pytest.raises(ConfigError, match="joins n-grams to a gpt, but model = 'toy'"):
        Config().override(model=toy, with_counts=True)


@pytest.mark.parametrize("name", MODELS)
def test_every_spec_is_sound(name: str) -> None:
    spec = spec_of(name)
    config = Config().override(model=name, **spec.preset)
    assert config.override(**spec.ladder).model.model == name
    assert spec.idea
    assert spec.activations(config.model) >= 0
    assert not (spec.counted and (spec.planned or spec.joins_counts))
