"""The C for 64-bit Arm: cross-compiled as a wheel's is, and run under qemu against PyTorch.

It shows that the results are right. The speed of Arm processors was never measured.
"""

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from small import small_gpt
from test_block import SHAPES, distance, passes, random_block

from hornbook.config import ModelConfig
from hornbook.infer.native_decoder import NativeDecoder
from hornbook.kernels import decoder as kernels
from hornbook.kernels.library import Library
from hornbook.kernels.recipe import DECODER, TARGETS, TRAINING, Sources, command
from hornbook.kernels.training import Matrix, TrainingKernels
from hornbook.models.schema import Schema
from hornbook.optim.muon import Muon

CROSS, EMULATOR = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
AARCH64 = next(each for each in TARGETS if each.name == "aarch64")
HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    CROSS is None or EMULATOR is None,
    reason="needs Debian's gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user",
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the caller, compiled for Arm."""
    place = tmp_path_factory.mktemp("arm")
    caller = [CROSS, "-O1", "-Wall", "-Werror", HERE / "arm.c", "-o", place / "caller", "-ldl"]
    subprocess.run(caller, check=True)
    return place


class OnArm:
    """A library whose functions run in an emulated Arm, with a copy of this process's memory."""

    def __init__(self, machine: Path, sources: Sources) -> None:
        self.machine, self.library = machine, machine / f"{sources.name}.so"
        if not self.library.exists():
            compile_ = command(CROSS or "", sources, AARCH64, str(self.library))
            subprocess.run(compile_, cwd=Path(kernels.__file__).parent, check=True)

    def call(self, name: str, memory: Sequence[tuple[int, int]]) -> None:
        """Call a function; `memory` are addresses and sizes, its argument the first."""
        index = {address: number for number, (address, _) in enumerate(memory)}
        contents = [ctypes.string_at(address, size) for address, size in memory]
        pointers = [
            (number, 8 * slot, index[value])
            for number, data in enumerate(contents)
            if len(data) < 4096 and len(data) % 8 == 0  # structures
            for slot, value in enumerate(struct.unpack(f"<{len(data) // 8}Q", data))
            if value in index
        ]
        image = self.machine / "memory"
        with image.open("wb") as file:
            file.write(struct.pack("<q", len(contents)))
            for data in contents:
                file.write(struct.pack("<q", len(data)) + data)
            file.write(struct.pack("<q", len(pointers)))
            for pointer in pointers:
                file.write(struct.pack("<3q", *pointer))
        environment = [EMULATOR, "-cpu", "max", "-L", "/usr/aarch64-linux-gnu"]
        run = [*environment, self.machine / "caller", self.library, name, image]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name}: exit {done.returncode}: {done.stderr}"
        changed, at = image.read_bytes(), 0
        pointing = {number for number, _, _ in pointers}
        for number, (address, size) in enumerate(memory):
            if number not in pointing:
                ctypes.memmove(address, changed[at : at + size], size)
            at += size


class Training(OnArm):
    """block.c and muon.c; the sizes are those that the structures describe."""

    def __init__(self, machine: Path, precision: str) -> None:
        super().__init__(machine, TRAINING[precision])
        self.width = {"float32": 4, "bfloat16": 2}[precision]

    def hornbook_kept_numbers(self, call: object) -> int:
        block = call._obj
        padded = -(-block.length // 32) * 32
        return block.rows * padded * (5 * block.width + 2 * block.mlp_width)

    def hornbook_forward(self, call: object) -> int:
        return self.passes("hornbook_forward", call._obj)

    def hornbook_backward(self, call: object) -> int:
        return self.passes("hornbook_backward", call._obj)

    def passes(self, name: str, block: ctypes.Structure) -> int:
        C, D, F = block.width, block.head_width, block.mlp_width
        numbers = block.rows * block.length * C
        weights = [C, *[C * C] * 4, D, D, C, C * F, C * F, C * F]
        sizes = {
            "x": numbers * self.width, "mask": 2 * numbers, "cosines": 4 * block.length * D,
            "sines": 4 * block.length * D, "y": numbers * self.width, "dy": numbers * self.width,
            "kept": self.hornbook_kept_numbers(ctypes.byref(block)) * self.width,
            "dx": numbers * self.width, "gradients": 4 * sum(weights),
        }  # fmt: skip
        named = [(getattr(block, each), size) for each, size in sizes.items()]
        named += [*zip(block.weights, [4 * each for each in weights], strict=True)]
        self.call(name, [whole(block), *[each for each in named if each[0]]])
        return 0

    def hornbook_muon(self, call: object) -> int:
        step = call._obj
        matrices = [step.matrices[i] for i in range(step.count)]
        array = (ctypes.addressof(matrices[0]), ctypes.sizeof(Matrix) * step.count)
        each = [
            (getattr(matrix, name), 4 * matrix.rows * matrix.columns)
            for matrix in matrices
            for name in ("weight", "momentum", "gradient")
        ]
        self.call("hornbook_muon", [whole(step), array, *each])
        return 0


def whole(structure: ctypes.Structure) -> tuple[int, int]:
    return ctypes.addressof(structure), ctypes.sizeof(structure)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["dropout", "heads of one panel and a half"])
def test_a_blocks_passes_are_torchs(machine: Path, name: str, dtype: torch.dtype) -> None:
    precision = str(dtype).removeprefix("torch.")
    config = SHAPES[name]
    fused, block = random_block(config), random_block(config)
    fused.kernels = TrainingKernels(Training(machine, precision), 0)
    exact = passes(block, config, torch.float32, rows=2)
    ours, theirs = (passes(each, config, dtype, rows=2) for each in (fused, block))
    for found, by_torch, expected in zip(ours, theirs, exact, strict=True):
        assert distance(found, expected) <= 1.3 * distance(by_torch, expected) + 5e-6


def test_muon_is_torchs(machine: Path) -> None:
    torch.manual_seed(0)
    shapes = [(64, 64), (96, 32), (32, 160)]
    start = [torch.randn(shape) for shape in shapes]
    found = []
    for arm in (True, False):
        weights = [torch.nn.Parameter(each.clone()) for each in start]
        native = TrainingKernels(Training(machine, "float32"), 0) if arm else None
        optimizer = Muon(
            weights, lr=0.1, momentum=0.95, decay=0.01, dtype=torch.float32, kernels=native
        )
        for step in range(2):
            generator = torch.Generator().manual_seed(step)
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
        found.append(weights)
    for ours, theirs in zip(*found, strict=True):
        assert distance(ours.detach(), theirs.detach()) < 1e-5


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_generation_is_this_machines(
    machine: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig(block_size=21, n_layer=2, n_head=3, n_embd=30)
    model = small_gpt(vocab_size=70, config=config)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    schema = Schema.of(config, 70)
    idx = np.random.default_rng(1).integers(70, size=(3, 50))

    def decoder() -> NativeDecoder:
        return NativeDecoder(
            schema, weights, context_size=64, precision=precision, rows=3, threads=2
        )

    expected = decoder().forward_all(idx)
    library = Decoding(machine, DECODER["bfloat16" if precision == "bfloat16" else "float32"])
    monkeypatch.setattr(kernels, "shared_library", lambda _: Library(library, "aarch64", ""))
    emulated = decoder()
    library.kept = emulated._kept  # what the model points to
    found = emulated.forward_all(idx)
    # Processors add up products of bfloat16 in orders of their own, or round their inputs or not.
    near = 2e-2 if precision == "bfloat16" else 1e-4
    np.testing.assert_allclose(found, expected, rtol=near, atol=near * np.abs(expected).max())


class Decoding(OnArm):
    """decoder.c: each call opens the model anew, so that nothing is cached between calls."""

    kept: Iterable[object] = ()

    def __init__(self, machine: Path, sources: Sources) -> None:
        super().__init__(machine, sources)
        # Functions, which take the types that `decoder_library` sets; methods do not.
        self.hornbook_open = partial(self.opened)
        self.hornbook_close = partial(int)
        self.hornbook_decode = partial(self.decode)
        self.hornbook_copy = partial(int)

    def opened(self, model: object) -> int:
        self.model = model._obj
        return 1

    @staticmethod
    def place(kept: object) -> tuple[int, int]:
        if isinstance(kept, np.ndarray):
            return kept.ctypes.data, kept.nbytes
        return ctypes.addressof(kept), ctypes.sizeof(kept)

    def decode(
        self, _handle: int, tokens: int, row: int, start: int, length: int, rows: int, _every: int,
        logits: int,
    ) -> int:  # fmt: skip
        count = sum((ctypes.c_int32 * rows).from_address(length))
        last = [(tokens, 4 * count), *((each, 4 * rows) for each in (row, start, length))]
        last.append((logits, 4 * count * self.model.vocab_size))
        self.call("hornbook_decode", [whole(self.model), *map(self.place, self.kept), *last])
        return 0
