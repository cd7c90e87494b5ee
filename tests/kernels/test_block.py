"""The C kernels of a block's training passes, compared with the block in PyTorch."""

import copy
import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import hornbook as hb
from hornbook.config import Config, ModelConfig
from hornbook.errors import ConfigError
from hornbook.kernels import processor
from hornbook.kernels.library import NativeUnavailableError, load_compiled, openmp
from hornbook.kernels.recipe import TRAINING, Target, compiler
from hornbook.kernels.training import TrainingKernels, misfit, training_kernels
from hornbook.models.gpt import Block, random_bytes, rotary_angles, sizes_of
from hornbook.models.schema import Schema
from hornbook.plan.machine import choose
from hornbook.plan.prepare import prepare

SHAPES = {
    "the default": ModelConfig(block_size=128, n_head=4, n_embd=128),
    "a width that no tile divides": ModelConfig(block_size=64, n_head=3, n_embd=96),
    "rows that end inside a panel": ModelConfig(block_size=37, n_head=2, n_embd=64),
    "heads of half a panel": ModelConfig(block_size=8, n_head=4, n_embd=64),
    "heads of one panel and a half": ModelConfig(block_size=100, n_head=2, n_embd=96),
    "wider than a group": ModelConfig(block_size=300, n_head=2, n_embd=64),
    "dropout": ModelConfig(block_size=50, n_head=2, n_embd=64, dropout=0.2),
    "as Llama: grouped queries, no norm of them": ModelConfig(
        block_size=40, n_head=6, n_kv_head=2, n_embd=96, mlp_width=64, query_key_norm=False
    ),
    "as Qwen3: grouped queries, wide heads": ModelConfig(
        block_size=40, n_head=4, n_kv_head=2, n_embd=32, head_width=48, dropout=0.1
    ),
}
shapes = pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def in_c(dtype: torch.dtype) -> TrainingKernels:
    try:
        return training_kernels("float32" if dtype == torch.float32 else "bfloat16")
    except NativeUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def random_block(config: ModelConfig) -> Block:
    torch.manual_seed(0)
    block = Block(Schema.of(config, vocab_size=1), config.dropout)
    with torch.no_grad():
        for weight in block.parameters():
            gain = weight.ndim == 1
            weight.copy_(torch.randn_like(weight) * (0.2 if gain else 0.1) + gain)
    return block


def passes(block: Block, config: ModelConfig, dtype: torch.dtype, rows: int) -> list[Tensor]:
    """What a block makes of a random input, and the gradients of the input and all weights."""
    generator = torch.Generator().manual_seed(1)
    shape = (rows, config.block_size, config.n_embd)
    x, dy = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    mask = None
    if config.dropout:
        torch.manual_seed(2)
        mask = random_bytes(2, *shape, device=x.device)
    cos, sin = rotary_angles(torch.arange(config.block_size), block.schema.head_width, 10_000.0)
    x.requires_grad_()
    y = block(x, cos, sin, None, mask)
    assert y.dtype == dtype
    return [y.detach(), *torch.autograd.grad(y, [x, *block.parameters()], dy)]


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("rows", [1, 5])
@shapes
@precisions
def test_both_passes_are_torchs(config: ModelConfig, dtype: torch.dtype, rows: int) -> None:
    fused, block = random_block(config), random_block(config)
    fused.kernels = in_c(dtype)
    exact = passes(block, config, torch.float32, rows)
    ours, theirs = (passes(each, config, dtype, rows) for each in (fused, block))
    for found, by_torch, expected in zip(ours, theirs, exact, strict=True):
        # In bfloat16 C rounds less often than torch; sixteen numbers may say otherwise.
        assert distance(found, expected) <= 1.3 * distance(by_torch, expected) + 5e-6


@pytest.mark.parametrize("target", processor.runnable(), ids=lambda each: each.name)
def test_older_processors_get_the_same(tmp_path: Path, target: Target) -> None:
    in_c(torch.float32)
    library = load_compiled(tmp_path, compiler(), TRAINING["float32"], target).handle
    library.hornbook_kept_numbers.restype = ctypes.c_int64
    for config in SHAPES.values():
        fused, block = random_block(config), random_block(config)
        fused.kernels = TrainingKernels(library, openmp())
        ours, exact = (passes(each, config, torch.float32, rows=3) for each in (fused, block))
        for found, expected in zip(ours, exact, strict=True):
            assert distance(found, expected) < 5e-6


@precisions
def test_threads_share_the_work_and_repeat_their_bits(
    two_threads: None, dtype: torch.dtype
) -> None:
    config = SHAPES["dropout"]
    block = random_block(config)
    block.kernels = in_c(dtype)
    first, again = (passes(block, config, dtype, rows=5) for _ in range(2))
    torch.set_num_threads(1)
    alone = passes(block, config, dtype, rows=5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(first[0], alone[0])
    assert torch.equal(first[1], alone[1])
    assert any(not torch.equal(a, b) for a, b in zip(first, alone, strict=True))
    for a, b in zip(first, alone, strict=True):
        assert distance(a, b.float()) < 1e-5


def trained(compile_: str, precision: str, *, accumulation: int = 1) -> list[float]:
    """The losses of a few steps of a small model."""
    from hornbook.optim.optimizer import Optimizers

    config = Config().override(
        n_layer=2, n_head=2, n_embd=64, block_size=48, dropout=0.1, compile=compile_,
        precision=precision,
    )  # fmt: skip
    machine = choose(config)
    torch.manual_seed(0)
    model = hb.GPT(config.model, 20)
    prepare(model, machine)
    optimizers = Optimizers(model, config.optimizer, machine.kernels)
    idx = torch.randint(20, (6, 49), generator=torch.Generator().manual_seed(3))
    losses = []
    for _ in range(12):
        for part in idx.chunk(accumulation):
            _, loss = model(part[:, :-1], part[:, 1:])
            (loss / accumulation).backward()
        losses.append(loss.item())
        optimizers.step(1.0)
    return losses


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_learns_in_c_what_it_learns_in_torch(precision: str, accumulation: int) -> None:
    in_c(torch.float32 if precision == "float32" else torch.bfloat16)
    ours, theirs = (trained(how, precision, accumulation=accumulation) for how in ("c", "off"))
    assert theirs[-1] < theirs[0] - 0.5
    near = {"float32": 2e-4, "bfloat16": 0.03}[precision]
    assert ours == pytest.approx(theirs, rel=near)


def test_all_but_training_goes_by_the_reference() -> None:
    config = ModelConfig(block_size=16, n_layer=2, n_head=2, n_embd=64)
    torch.manual_seed(0)
    model, reference = hb.GPT(config, 11), hb.GPT(config, 11)
    reference.load_state_dict(model.state_dict())
    for block in model.blocks:
        block.kernels = in_c(torch.float32)
    longer = torch.randint(11, (2, 60))
    with torch.no_grad():
        assert torch.equal(model(longer)[0], reference(longer)[0])
        assert torch.equal(model.next_logits(longer), reference.next_logits(longer))
    # Past its block a layer reads through a window, which C has not.
    _, loss = model(longer[:, :-1], longer[:, 1:])
    _, expected = reference(longer[:, :-1], longer[:, 1:])
    assert torch.equal(loss, expected)


def test_what_the_kernels_cannot_train_is_reported() -> None:
    sizes = sizes_of(Schema.of(ModelConfig(n_embd=128, n_head=4), vocab_size=1))
    assert not misfit(sizes)
    assert "multiple of 32" in misfit(sizes._replace(width=48, head_width=24))
    assert "48 and 24" in misfit(sizes._replace(width=48, head_width=24))
    assert "all key-value heads is 16" in misfit(sizes._replace(head_width=16, n_kv_head=1))
    assert "the MLP is 100" in misfit(sizes._replace(mlp_width=100))
    with pytest.raises(ConfigError, match="compile = 'c': the C kernels need n_embd"):
        choose(Config().override(n_embd=48, n_head=2, compile="c"))
    assert choose(Config().override(n_embd=48, n_head=2)).compile.value != "c"
    with pytest.raises(ConfigError, match=r"compile = 'c': .*layernorm"):
        choose(Config().override(model="layernorm", compile="c"))


def test_what_a_block_keeps_can_be_computed_again() -> None:
    config = ModelConfig(block_size=16, n_layer=3, n_head=2, n_embd=64)
    torch.manual_seed(0)
    model = hb.GPT(config, 11)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    for block in model.blocks:
        block.kernels = in_c(torch.float32)
    idx = torch.randint(11, (4, 16))
    held: list[Tensor] = []

    def hold(saved: Tensor) -> Tensor:
        held.append(saved)
        return saved

    gradients, numbers = [], []
    for model.recompute in (False, True):
        held.clear()
        with torch.autograd.graph.saved_tensors_hooks(hold, lambda saved: saved):
            loss = model.hidden(idx).square().sum()
        numbers.append(sum(each.numel() for each in held))
        gradients.append(torch.autograd.grad(loss, list(model.blocks.parameters())))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    of_blocks = 3 * 4 * 16 * (5 * 64 + 2 * model.schema.mlp_width)
    assert numbers[0] - numbers[1] >= of_blocks


def test_hooks_on_a_blocks_parts_still_fire() -> None:
    config = SHAPES["heads of half a panel"]
    block, reference = random_block(config), random_block(config)
    block.kernels = in_c(torch.float32)
    fired: list[str] = []
    handles = [
        part.register_forward_hook(lambda *_, name=name: fired.append(name))
        for name, part in block.named_modules()
        if name
    ]
    hooked, expected = (passes(each, config, torch.float32, rows=2) for each in (block, reference))
    assert fired[:2] == ["attention_norm", "attention.query"]
    assert all(torch.equal(a, b) for a, b in zip(hooked, expected, strict=True))
    handles.pop().remove()
    for handle in handles:
        handle.remove()
    fired.clear()
    passes(block, config, torch.float32, rows=2)
    assert not fired


def test_a_model_with_kernels_can_be_copied() -> None:
    config = ModelConfig(block_size=8, n_layer=1, n_head=2, n_embd=32)
    model = hb.GPT(config, 5)
    for block in model.blocks:
        block.kernels = in_c(torch.float32)
    idx = torch.randint(5, (2, 8))
    assert torch.equal(copy.deepcopy(model)(idx, idx)[1], model(idx, idx)[1])


def test_c_is_chosen_where_it_is_faster() -> None:
    in_c(torch.float32)
    asked = Config().override(compile="c", device="cpu", precision="float32")
    assert choose(asked).compile.value == "c"
    by_itself = choose(asked.override(compile="auto")).compile
    assert (by_itself.value == "c") == processor.target().trains_faster


def test_gradients_of_gradients_are_refused() -> None:
    config = SHAPES["heads of half a panel"]
    block = random_block(config)
    block.kernels = in_c(torch.float32)
    cos, sin = rotary_angles(torch.arange(8), config.n_embd // config.n_head, 10_000.0)
    x = torch.randn(1, 8, 64, requires_grad=True)
    (slope,) = torch.autograd.grad(block(x, cos, sin).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
