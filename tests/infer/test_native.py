"""Decoding in C, checked against torch; and the library that it comes in."""

import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_gpt

import hornbook as hb
from hornbook.config import READ_AT_ONCE, ModelConfig, SamplingConfig
from hornbook.errors import CheckpointError
from hornbook.infer import tokens
from hornbook.infer.batch import Batch
from hornbook.infer.native_decoder import KINDS, NativeDecoder
from hornbook.infer.torch_decoder import TorchDecoder, fastest_decoder
from hornbook.kernels import NativeUnavailableError, compiler, processor
from hornbook.kernels import decoder as kernels
from hornbook.kernels.library import Library, load_compiled
from hornbook.kernels.recipe import DECODER, Sources, Target
from hornbook.models.schema import Schema
from hornbook.storage.cache import DamagedCacheWarning

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")

GREEDY = SamplingConfig(temperature=0)
SHAPES = {
    "heads of 64, more positions than a pass": ModelConfig(
        block_size=150, n_layer=2, n_head=2, n_embd=128
    ),
    "nothing a multiple of anything": ModelConfig(block_size=21, n_layer=3, n_head=3, n_embd=30),
    "one table for both ends": ModelConfig(
        block_size=64, n_layer=1, n_head=1, n_embd=96, tie_embeddings=True
    ),
    "as Llama 3: grouped queries, no norm of them, scaled rotations": ModelConfig(
        block_size=21,
        context_length=100,
        n_layer=2,
        n_head=6,
        n_kv_head=2,
        n_embd=48,
        head_width=10,
        mlp_width=80,
        query_key_norm=False,
        rotary_base=1e5,
        rotary_scaling=(8.0, 1.0, 4.0, 16),
    ),
    "as Qwen3: grouped queries, wide heads": ModelConfig(
        block_size=21,
        context_length=100,
        sliding_window=30,
        n_layer=2,
        n_head=4,
        n_kv_head=2,
        n_embd=32,
        head_width=16,
        rotary_base=1e6,
    ),
}
shapes = pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())


def weights(model: hb.GPT) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def opened(model: hb.GPT, arrays: dict[str, np.ndarray], **settings: object) -> NativeDecoder:
    schema = Schema.of(model.config, model.vocab_size)
    return NativeDecoder(schema, arrays, context_size=model.context_size, **settings)


def decoder(model: hb.GPT, precision: str = "float32", **settings: int) -> NativeDecoder:
    return opened(model, weights(model), precision=precision, **settings)


def texts(model: hb.GPT, rows: int) -> np.ndarray:
    """Three blocks long, and a bit: read through windows from the second on."""
    length = 3 * model.config.block_size + 5
    return np.random.default_rng(1).integers(model.vocab_size, size=(rows, length))


@shapes
def test_its_logits_are_torchs(config: ModelConfig) -> None:
    model = small_gpt(vocab_size=70, config=config)
    idx = texts(model, 2)
    with torch.no_grad():
        expected, _ = model(torch.from_numpy(idx))
    found = torch.from_numpy(decoder(model, rows=2).forward_all(idx))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def load(kept: Path, found: str | None) -> Library:
    return load_compiled(kept, found, DECODER["float32"], processor.target())


def without_bfloat16(library: Library) -> Callable[[Sources], Library]:
    """What `shared_library` is where the processor multiplies no bfloat16."""

    def shared_library(sources: Sources) -> Library:
        if sources.precision == "bfloat16":
            raise NativeUnavailableError("no instruction")
        return library

    return shared_library


@pytest.mark.parametrize("target", processor.runnable()[1:], ids=lambda each: each.name)
def test_older_processors_get_the_same(
    tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_gpt(vocab_size=70, config=SHAPES["nothing a multiple of anything"])
    idx = texts(model, 7)
    best = [decoder(model, kind, rows=7).forward_all(idx) for kind in KINDS]
    library = load_compiled(tmp_path, compiler(), DECODER["float32"], target)
    monkeypatch.setattr(kernels, "shared_library", without_bfloat16(library))
    for kind, expected in zip(KINDS, best, strict=True):
        whole = decoder(model, kind, rows=7).forward_all(idx)
        # The best may round the inputs of products to 8 bits.
        near = 2e-2 if kind == "bfloat16" else 1e-4
        close = {"rtol": near, "atol": near * float(np.abs(expected).max())}
        np.testing.assert_allclose(whole, expected, **close)
        alone = decoder(model, kind).forward_all(idx[3:4])  # one lane, two, and a group
        np.testing.assert_array_equal(alone[0], whole[3])


@shapes
def test_a_row_is_the_same_to_the_bit_whatever_is_beside_it(config: ModelConfig) -> None:
    model = small_gpt(vocab_size=70, config=config)
    idx = texts(model, 7)
    for precision in KINDS:
        whole = decoder(model, precision, rows=7).forward_all(idx)
        for threads, portion in ((1, 1), (2, 4), (3, 100)):
            alone = decoder(model, precision, rows=9, threads=threads)
            for start in range(0, idx.shape[1], portion):
                part = idx[3:4, start : start + portion]
                logits_RV = alone.forward(part.tolist(), [8], [start])
                np.testing.assert_array_equal(logits_RV[0], whole[3, start + part.shape[1] - 1])


@pytest.mark.parametrize("prompt_length", [1, 5, 16, 40, READ_AT_ONCE - 20])
def test_greedy_text_is_torchs_past_block_and_context(prompt_length: int) -> None:
    model = small_gpt()
    prompt = texts(model, 60).flatten()[:prompt_length].tolist()
    written = [
        list(itertools.islice(tokens(source, prompt, sampling=GREEDY), 60))
        for source in (model, decoder(model))
    ]
    assert written[0] == written[1]


def test_seeded_text_does_not_depend_on_how_many_are_written() -> None:
    model = small_gpt()
    alone = [list(itertools.islice(tokens(decoder(model), [1], seed=n), 50)) for n in range(70)]
    batch = Batch(decoder(model, rows=70, threads=2))
    numbers = [batch.add([1], seed=seed) for seed in range(70)]
    for expected in zip(*alone, strict=True):
        drawn = batch.step()
        assert tuple(drawn[number] for number in numbers) == expected


def test_a_shared_beginning_is_read_once_and_changes_no_bit() -> None:
    model = small_gpt()
    beginning = texts(model, 1)[0].tolist() * 5
    prompts = [[*beginning, end] for end in range(6)]
    alone = [list(itertools.islice(tokens(decoder(model), prompt, seed=1), 80))
             for prompt in prompts]  # fmt: skip

    class Reading(NativeDecoder):
        read = 0

        def forward(self, tokens: object, rows: object, starts: object) -> np.ndarray:
            self.read += sum(map(len, tokens))
            return super().forward(tokens, rows, starts)

    schema = Schema.of(model.config, model.vocab_size)
    reading = Reading(schema, weights(model), context_size=model.context_size, rows=4)
    batch = Batch(reading)
    found = {batch.add(prompt, seed=1, max_new_tokens=80): [] for prompt in prompts}
    while len(batch):
        for number, token in batch.step().items():
            found[number].append(token)
    assert list(found.values()) == alone
    # Two wait for rows that have just ended, and take over what stands in them.
    assert reading.read == len(beginning) + 6 * 80
    with pytest.raises(IndexError):
        reading.copy(0, 9, 1)
    with pytest.raises(IndexError):
        reading.copy(0, 1, READ_AT_ONCE + 1)


def test_bfloat16_weights_are_rounded_weights_and_no_more_or_inputs_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_gpt(vocab_size=70, config=SHAPES["nothing a multiple of anything"])
    idx = texts(model, 2)
    exact = decoder(model, rows=2).forward_all(idx)
    here = decoder(model, "bfloat16", rows=2).forward_all(idx)
    library = load(tmp_path, compiler())
    monkeypatch.setattr(kernels, "shared_library", without_bfloat16(library))
    found = decoder(model, "bfloat16", rows=2).forward_all(idx)
    assert 0 < np.std(here - exact) < 2 * np.std(found - exact)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_(module.weight.bfloat16())
    np.testing.assert_array_equal(found, decoder(model, rows=2).forward_all(idx))


def test_int8_weights_are_within_half_a_step_of_the_true_ones() -> None:
    model = small_gpt(vocab_size=70, config=SHAPES["nothing a multiple of anything"])
    idx = texts(model, 2)
    found = decoder(model, "int8", rows=2).forward_all(idx)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                step = module.weight.abs().amax(dim=1, keepdim=True) / 127
                module.weight.copy_((module.weight / step).round() * step)
    np.testing.assert_allclose(found, decoder(model, rows=2).forward_all(idx), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("read", "row", "start"),
    [([[11]], 0, 0), ([[-1]], 0, 0), ([[1]], 1, 0), ([[1]], -1, 0), ([[1]], 0, READ_AT_ONCE),
     ([[1] * (READ_AT_ONCE + 1)], 0, 0), ([[1]], 0, -1), ([[]], 0, 0), ([[2**31]], 0, 0),
     ([[1]], 0, 3)],
)  # fmt: skip
def test_what_is_outside_the_model_is_refused(read: list[list[int]], row: int, start: int) -> None:
    model = small_gpt()
    for each in (decoder(model), TorchDecoder(model, rows=1)):
        each.forward([[1, 2]], [0], [0])
        with pytest.raises((IndexError, OverflowError)):
            each.forward(read, [row], [start])
        with pytest.raises(IndexError):
            each.forward([[1], [1]], [0, 0], [0, 0])
        with pytest.raises(IndexError):
            each.forward([[1]], [0], [0, 0])


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_ragged_rows_are_each_row_alone_and_torchs(data: st.DataObject) -> None:
    """Rows with prompts of their own lengths that begin, go on, go back and pause at any step."""
    model = small_gpt(config=SHAPES["nothing a multiple of anything"])
    together = decoder(model, rows=4, threads=data.draw(st.integers(1, 3)))
    torchs = TorchDecoder(model, rows=4)
    texts: list[list[int]] = [[] for _ in range(4)]
    for _ in range(data.draw(st.integers(1, 6))):
        rows = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True))
        starts = [
            data.draw(st.sampled_from([len(texts[row]), len(texts[row]) // 2, 0])) for row in rows
        ]
        lengths = [data.draw(st.sampled_from([1, 1, 2, 7, 30, 70])) for _ in rows]
        seed = data.draw(st.integers(0, 99))
        drawn = np.random.default_rng(seed).integers(model.vocab_size, size=sum(lengths)).tolist()
        new = [[drawn.pop() for _ in range(length)] for length in lengths]
        for tokens_T, row, start in zip(new, rows, starts, strict=True):
            texts[row][start:] = tokens_T
        found_RV = together.forward(new, rows, starts)
        alone = decoder(model)
        for row, found_V in zip(rows, found_RV, strict=True):
            np.testing.assert_array_equal(found_V, alone.forward([texts[row]], [0], [0])[0])
        expected_RV = torchs.forward(new, rows, starts)
        np.testing.assert_allclose(
            found_RV, expected_RV, rtol=1e-4, atol=1e-4 * float(np.abs(expected_RV).max())
        )


def test_models_with_forward_hooks_run_in_pytorch() -> None:
    model = small_gpt()
    assert isinstance(fastest_decoder(model), NativeDecoder)
    for part in (model, model.blocks[0].mlp):
        seen: list[object] = []
        hook = part.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        decoder = fastest_decoder(model)
        assert isinstance(decoder, TorchDecoder)
        next(tokens(decoder, [1]))
        assert bool(seen) is (part is not model), "the model's parts are called, not the model"
        hook.remove()
    assert isinstance(fastest_decoder(model), NativeDecoder)


def test_weights_of_another_shape_are_refused_by_name() -> None:
    model = small_gpt()
    good = weights(model)
    for change, named in (
        ({"blocks.1.mlp.up.weight": np.zeros((3, 3), np.float32)}, "blocks.1.mlp.up"),
        ({"norm.weight": None}, "norm"),
        ({"blocks.7.mlp.up.weight": good["norm.weight"]}, "blocks.7"),
        ({"norm.weight": good["norm.weight"].astype(np.float64)}, "float64"),
    ):
        bad = {name: array for name, array in (good | change).items() if array is not None}
        with pytest.raises(CheckpointError, match=named):
            opened(model, bad)


def test_the_library_is_kept_and_made_again_when_damaged(tmp_path: Path) -> None:
    load(tmp_path, compiler())
    (folder,) = tmp_path.iterdir()
    sound = (folder / "library.so").read_bytes()
    made = (folder / "library.so").stat().st_mtime_ns
    load(tmp_path, compiler())
    assert (folder / "library.so").stat().st_mtime_ns == made

    (folder / "library.so").unlink()  # what is mapped into this process must stay as it is
    (folder / "library.so").write_bytes(sound[:-100] + bytes(100))
    with pytest.warns(DamagedCacheWarning):
        load(tmp_path, compiler())
    assert len((folder / "library.so").read_bytes()) == len(sound)
    load(tmp_path, compiler())


def test_a_library_that_others_could_write_is_not_loaded(tmp_path: Path) -> None:
    load(tmp_path / "kept", compiler())
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    (tmp_path / "kept").chmod(0o777)
    with pytest.raises(NativeUnavailableError, match="written by others"):
        load(tmp_path / "kept", compiler())


def test_a_compiler_that_fails_says_so_in_a_line(tmp_path: Path) -> None:
    failing = tmp_path / "cc"
    failing.write_text("#!/bin/sh\necho 'no such thing as -O3' >&2\nexit 1\n")
    failing.chmod(0o755)
    with pytest.raises(NativeUnavailableError, match="no such thing as -O3"):
        load(tmp_path / "kept", str(failing))
    assert not [*(tmp_path / "kept").iterdir()]
    with pytest.raises(NativeUnavailableError, match="no C compiler"):
        load(tmp_path / "kept", None)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NativeUnavailableError, match="cannot keep"):
        load(tmp_path / "file", compiler())


def test_what_is_compiled_ahead_is_there_for_who_asks(tmp_path: Path) -> None:
    program = (
        "import hornbook.kernels as native, sys\n"
        "native.compile_ahead()\n"
        "native.decoder_library()\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = os.environ | {"HORNBOOK_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-W", "error", "-c", program], env=environment, check=True)
    assert any((tmp_path / "native").glob("*/library.so"))
