"""NaN or infinity at any step of a run, in the loss or in a gradient alone."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jobs import config, write_text

from hornbook import checkpoint
from hornbook import training as engine
from hornbook.errors import NonFiniteLossError
from hornbook.run import RunFolder

STEPS = 6


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_it_stops_before_the_update(
    value: float,
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tell: Callable[[str, str], None],
) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    settings = config(write_text(tmp_path), steps=STEPS, checkpoint_interval=1)
    for step in range(STEPS):
        run = tmp_path / f"run-{step}"
        training = engine.begin(settings, out=run)
        steps = engine.steps(training)
        list(itertools.islice(steps, step))
        before = {name: t.clone() for name, t in training.model.state_dict().items()}
        spoil(training, where, value)
        with pytest.raises(NonFiniteLossError, match=f"step {step + 1}: ") as caught:
            next(steps)
        print(caught.value)
        assert caught.value.exit_code == 3
        for name, tensor in training.model.state_dict().items():
            assert torch.equal(tensor, before[name]) or not tensor.isfinite().all(), "not updated"
        if step:
            last = checkpoint.load(RunFolder(run).checkpoints, "step")
            assert last.step == step
            assert all(tensor.isfinite().all() for tensor in last.tensors["model"].values())
    tell(
        f"{value} in the {where}",
        f"{STEPS} of {STEPS} steps: stopped before the update, the last good state kept",
    )


def spoil(training: engine.Training, where: str, value: float) -> None:
    """Make the next step's loss, or one of its gradients alone, not finite."""
    weight = next(training.model.parameters())
    if where == "loss":
        with torch.no_grad():
            weight[:] = value
    else:
        weight.register_hook(lambda gradient: gradient + value)
