"""How weights move: the schedule, who takes which parameter, and state that comes back."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import SMALL

import hornbook as hb
from hornbook.config import OptimizerConfig
from hornbook.errors import CheckpointError
from hornbook.kernels import NativeUnavailableError
from hornbook.kernels.training import training_kernels
from hornbook.optim.muon import Muon, orthogonalize
from hornbook.optim.optimizer import AdamW, Optimizers, learning_rate_scale, matrices


@given(steps=st.integers(1, 500), warmup=st.floats(0, 1), decay=st.floats(0, 1))
def test_the_schedule_rises_stays_and_falls(steps: int, warmup: float, decay: float) -> None:
    scales = [
        learning_rate_scale(step, steps, warmup_fraction=warmup, decay_fraction=decay)
        for step in range(steps)
    ]
    assert all(0 < scale <= 1 for scale in scales)
    top = scales.index(max(scales))
    assert scales[:top] == sorted(scales[:top])
    assert scales[top:] == sorted(scales[top:], reverse=True)
    if decay * steps >= 2:
        assert scales[-1] <= 1 / (decay * steps) + 1e-9


def test_without_warmup_or_decay_the_rate_is_level() -> None:
    scales = [
        learning_rate_scale(step, 10, warmup_fraction=0, decay_fraction=0) for step in range(10)
    ]
    assert scales == [1.0] * 10


def test_muon_takes_the_blocks_matrices_and_no_other() -> None:
    model = hb.GPT(SMALL, 11)
    taken = matrices(model)
    assert len(taken) == SMALL.n_layer * 7
    assert not any("embedding" in name or "norm" in name or "logits" in name for name in taken)
    optimizers = Optimizers(model, OptimizerConfig())
    owned = [p for group in optimizers.groups for p in group.parameters]
    assert len(owned) == len({id(p) for p in owned}) == len(list(model.parameters()))


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_moves_further_than_what_gives_logits(tied: bool) -> None:
    model = hb.GPT(dataclasses.replace(SMALL, tie_embeddings=tied), 11)
    optimizers = Optimizers(model, OptimizerConfig(learning_rate=0.001))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step_once(model, optimizers, 0)
    # Adam's first step is the rate itself, wherever there is a gradient.
    moved = {name: (p - before[name]).abs().max().item() for name, p in model.named_parameters()}
    assert moved["embedding.weight"] == pytest.approx(0.0007 * (1 if tied else 2), rel=1e-3)
    assert moved["norm.weight"] == pytest.approx(0.0007, rel=1e-3)


def step_once(model: torch.nn.Module, optimizers: Optimizers, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizers.step(0.7)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_state_put_back_goes_on_as_if_never_left(name: str) -> None:
    config = OptimizerConfig(optimizer=name)
    torch.manual_seed(0)
    model = hb.GPT(SMALL, 11)
    optimizers = Optimizers(model, config)
    for seed in range(3):
        step_once(model, optimizers, seed)
    other = hb.GPT(SMALL, 11)
    other.load_state_dict(model.state_dict())
    others = Optimizers(other, config)
    others.load_tensors({key: value.clone() for key, value in optimizers.tensors().items()})
    for each, its in ((model, optimizers), (other, others)):
        step_once(each, its, 7)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_state_of_another_model_is_refused() -> None:
    model = hb.GPT(SMALL, 11)
    optimizers = Optimizers(model, OptimizerConfig())
    step_once(model, optimizers, 0)
    wider = Optimizers(hb.GPT(SMALL, 12), OptimizerConfig())
    with pytest.raises(CheckpointError, match=r"does not fit this model: embedding\.weight"):
        wider.load_tensors(optimizers.tensors())
    with pytest.raises(CheckpointError, match="missing or has another shape"):
        wider.load_tensors({})


def test_muon_takes_the_very_steps_of_torchs_own() -> None:
    shapes = [(8, 8), (24, 8), (8, 24), (8, 8), (24, 8)]
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    ours = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    theirs = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    optimizers = (
        Muon(ours, lr=0.02, momentum=0.95, decay=0.1),
        torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1),
    )
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other, before in zip(ours, theirs, start, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=2e-3)
        assert (mine - before).abs().max() > 0.02


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_muon_in_c_takes_the_steps_of_muon_in_torch(precision: str) -> None:
    try:
        in_c = training_kernels(precision)
    except NativeUnavailableError as error:
        pytest.skip(str(error))
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    shapes = [(64, 64), (192, 64), (64, 192), (32, 96), (64, 64)]
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    moved = []
    for how in (None, in_c, in_c):
        matrices = [torch.nn.Parameter(matrix.clone()) for matrix in start]
        optimizer = Muon(matrices, lr=0.02, momentum=0.9, decay=0.1, dtype=dtype, kernels=how)
        for step in range(3):
            generator.manual_seed(step)
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape, generator=generator)
            optimizer.step(0.7)
        moved.append([*(each.detach() for each in matrices), *map(optimizer.buffer, matrices)])
    by_torch, ours, again = moved
    near = 1e-5 if precision == "float32" else 2e-3
    for mine, other, same in zip(ours, by_torch, again, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=near)
        assert torch.equal(mine, same)
    assert all((a - b).abs().max() > 0.02 for a, b in zip(ours[:5], start, strict=True))


def test_adamw_takes_the_very_steps_of_torchs_own() -> None:
    shapes = [(8, 8), (24, 8), (8,)]
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    ours = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    theirs = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    optimizer = AdamW(ours, lr=0.02, betas=(0.9, 0.95), decay=0.1)
    reference = torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        optimizer.step(0.5)
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)
        state = reference.state[other]
        assert optimizer.state[mine].keys() == state.keys()
        assert all(torch.equal(optimizer.state[mine][key], state[key]) for key in state)


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 8, 24, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3
