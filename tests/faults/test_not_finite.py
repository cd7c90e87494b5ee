"""NaN or infinity at any step of a run, in the loss or in a gradient alone."""

import itertools
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jobs import config, hashes, write_text

import hornbook as hb
from hornbook import cli
from hornbook import training as engine
from hornbook.config import Config
from hornbook.errors import NonFiniteLossError
from hornbook.runs.folder import RunFolder
from hornbook.storage import checkpoint
from hornbook.training import Trainer
from hornbook.training.step import read_batch

STEPS = 6


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    return write_text(tmp_path)


def settings(text: Path) -> Config:
    return config(text, steps=STEPS, checkpoint_interval=4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_it_stops_before_the_update(
    value: float, where: str, text: Path, tmp_path: Path, tell: Callable[[str, str], None]
) -> None:
    list(hb.train(settings(text), out=tmp_path / "whole"))
    for step in range(STEPS):
        run = tmp_path / f"run-{step}"
        trainer = engine.begin(settings(text), out=run)
        steps = engine.steps(trainer)
        list(itertools.islice(steps, step))
        before = weights(trainer)
        spoil(trainer, where, value)
        with pytest.raises(NonFiniteLossError, match=f"step {step + 1}, batch ") as caught:
            next(steps)
        assert caught.value.exit_code == 3
        assert unchanged(trainer, before)
        # The last good state was kept: from it, unspoilt, the run ends as if nothing had been.
        rest = list(hb.train(resume_from=run))
        assert rest[0].step == step + 1
        assert hashes(run) == hashes(tmp_path / "whole")
    tell(
        f"{value} in the {where}",
        f"{STEPS} of {STEPS} steps: stopped before the update, exit 3, the last good state kept",
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_an_update_regardless_would_show(value: float, where: str, text: Path, run: Path) -> None:
    # The control: a step that does not look at what it has computed.
    trainer = engine.begin(settings(text), out=run)
    before = weights(trainer)
    spoil(trainer, where, value)
    loss = trainer.state.model.training_loss(read_batch(trainer, 0))
    assert unchanged(trainer, before)
    loss.backward()
    trainer.state.optimizers.step(1.0)
    assert not unchanged(trainer, before)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """A copy of the weights."""
    return {name: tensor.clone() for name, tensor in trainer.state.model.state_dict().items()}


def unchanged(trainer: Trainer, before: dict[str, torch.Tensor]) -> bool:
    """Whether the weights are as they were."""
    now = trainer.state.model.state_dict()
    return all(torch.equal(tensor, before[name]) for name, tensor in now.items())


def spoil(trainer: Trainer, where: str, value: float) -> None:
    """Make the next step's loss, or one of its gradients alone, not finite."""
    if where == "loss":
        trainer.state.model.register_forward_hook(
            lambda module, inputs, output: (output[0], output[1] * value)
        )
    else:
        next(trainer.state.model.parameters()).register_hook(lambda gradient: gradient + value)


def test_going_on_meets_it_again(text: Path, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Weights so large, though finite, that their products are not.
    steps = hb.train(settings(text), out=run)
    list(itertools.islice(steps, 3))
    steps.close()
    folder = RunFolder(run).checkpoints
    saved = checkpoint.load(folder, "step")
    large = {name: tensor * 3e37 for name, tensor in saved.tensors["model"].items()}
    shutil.rmtree(checkpoint.folders(folder, "step")[0])
    tensors = saved.tensors | {"model": large}
    checkpoint.save(folder, "step", replace(saved, tensors=tensors))
    said = []
    for _ in range(2):
        assert cli.run(["train", "--resume", str(run), "--quiet"]) == 3
        said.append(capfd.readouterr().err)
    assert said[0] == said[1]
    assert "step 4, batch 6" in said[0]
    assert checkpoint.load(folder, "step").step == 3
