"""Tokens drawn in C are the reference's, by every setting."""

from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_gpt

from hornbook.config import SamplingConfig
from hornbook.errors import CheckpointError
from hornbook.infer import batch, native_sampler
from hornbook.infer.batch import Batch
from hornbook.infer.native_sampler import NO_TEXT, NativeSampler, Packed, pack_text
from hornbook.infer.sampling import Row, distributions, draw
from hornbook.infer.torch_decoder import TorchDecoder
from hornbook.kernels import NativeUnavailableError, compiler, processor
from hornbook.kernels.library import load_compiled
from hornbook.kernels.recipe import SAMPLER

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")

PLAIN = SamplingConfig()
samplings = st.builds(
    SamplingConfig,
    temperature=st.sampled_from([0.0, 5e-324, 0.3, 1.0, 1.0, 1000.0]),
    top_k=st.sampled_from([0, 0, 1, 3, 90]),
    top_p=st.sampled_from([1.0, 1.0, 0.9, 0.5, 1e-310]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5, 1e-310]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    frequency_penalty=st.sampled_from([0.0, -0.7]),
    logit_bias=st.sampled_from([{}, {0: 3.0, 7: -100.0, 900: 1.0}]),
)
# Whole numbers, of which many are equal, and any others.
logit_rows = st.lists(st.integers(-3, 3) | st.floats(-20, 20, width=32), min_size=1, max_size=90)


def drawn(
    logits_RV: np.ndarray, rows: list[tuple[SamplingConfig, list[int], int, int]], at: list[float]
) -> list[int]:
    """By C: each row has settings, tokens, and where those begin that the penalties are for."""
    packed = [Packed.of(sampling) for sampling, _, _, _ in rows]
    copied = [array("i", tokens) for _, tokens, _, _ in rows]
    texts = [
        pack_text(tokens, context, generated) if sampling.changes_logits else NO_TEXT
        for (sampling, _, context, generated), tokens in zip(rows, copied, strict=True)
    ]
    return NativeSampler().draw(logits_RV, [each.setting for each in packed], texts, at)


@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_each_row_draws_the_references_token(data: st.DataObject) -> None:
    logits = data.draw(logit_rows)
    V = len(logits)
    rows, found = [], []
    for _ in range(data.draw(st.integers(1, 3))):
        tokens = data.draw(st.lists(st.integers(0, V - 1), min_size=1, max_size=20))
        context, generated = (data.draw(st.integers(0, len(tokens))) for _ in range(2))
        rows.append((data.draw(samplings), tokens, context, generated))
        found.append(data.draw(st.permutations(logits)))
    logits_RV = np.array(found, np.float32)
    highest = float(np.nextafter(1.0, 0.0))
    at = [data.draw(st.floats(1e-9, 1 - 1e-9) | st.sampled_from([highest])) for _ in rows]
    reference = [
        Row(sampling, tokens[context:], tokens[generated:])
        for sampling, tokens, context, generated in rows
    ]
    expected = draw(distributions(logits_RV, reference), at)
    assert drawn(logits_RV, rows, at) == expected


@pytest.mark.parametrize("target", processor.runnable()[1:], ids=lambda each: each.name)
def test_older_processors_draw_the_same(
    tmp_path: Path, target: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    logits_RV = random.normal(size=(50, 300)).astype(np.float32) * 3
    cut = SamplingConfig(top_p=0.8, temperature=0.9)
    rows = [(sampling, [1], 0, 0) for sampling in (PLAIN, cut) for _ in range(25)]
    expected = drawn(logits_RV, rows, at := random.random(50).tolist())
    library = load_compiled(tmp_path, compiler(), SAMPLER, target)
    monkeypatch.setattr(native_sampler, "shared_library", lambda _: library)
    assert drawn(logits_RV, rows, at) == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(temperature: float, wrong: float) -> None:
    logits_RV = np.ones((2, 40), np.float32)
    logits_RV[1] = wrong
    rows = [(SamplingConfig(temperature=temperature), [1], 0, 0)] * 2
    with pytest.raises(CheckpointError, match="not numbers"):
        drawn(logits_RV, rows, [0.5, 0.5])


def test_without_a_compiler_numpy_draws_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [PLAIN, SamplingConfig(top_p=0.9, presence_penalty=0.4), SamplingConfig(top_k=2)]

    def texts() -> list[list[int]]:
        together = Batch(TorchDecoder(small_gpt(), rows=3))
        numbers = [together.add([1, 2, 1], sampling, 3) for sampling in asked]
        steps = [together.step() for _ in range(40)]
        return [[step[number] for step in steps] for number in numbers]

    def missing() -> None:
        raise NativeUnavailableError("no compiler")

    expected = texts()
    monkeypatch.setattr(batch, "NativeSampler", missing)
    assert texts() == expected
