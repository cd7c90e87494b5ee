"""The C kernels of n-grams, compared with PyTorch."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.config import ModelConfig
from hornbook.kernels import NativeUnavailableError
from hornbook.kernels.ngrams import LONGEST_ROW, ngram_kernels
from hornbook.models.context_counts import ContextCounts
from hornbook.models.ngram import NGramLanguageModel
from hornbook.models.registry import build, use_ngram_kernels
from hornbook.ngram.model import NGramModel, side_by_side


@pytest.fixture(autouse=True)
def in_c() -> None:
    try:
        ngram_kernels()
    except NativeUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def random_text(length: int, vocab_size: int, seed: int = 0) -> np.ndarray:
    """Tokens that come again: each is mostly one of two that its two predecessors name."""
    generator = np.random.default_rng(seed)
    text = list(generator.integers(vocab_size, size=2))
    for _ in range(length - 2):
        usual = (7 * text[-1] + 3 * text[-2] + int(generator.integers(2))) % vocab_size
        text.append(usual if generator.random() < 0.8 else int(generator.integers(vocab_size)))
    return np.array(text)


SMOOTHINGS = ("kneser-ney", "witten-bell", "add-k", "mle")


@pytest.mark.parametrize(("smoothing", "order"), [*itertools.product(SMOOTHINGS, (1, 2, 6))])
def test_what_counts_say_is_torchs(threads: int, smoothing: str, order: int) -> None:
    counted = NGramModel.fit(random_text(4000, 13), 13, order=order, smoothing=smoothing)
    ours, theirs = NGramLanguageModel(counted, 512), NGramLanguageModel(counted, 512)
    use_ngram_kernels(ours)
    idx = torch.from_numpy(random_text(3 * 150, 13, seed=1)).view(3, 150)
    for last in (None, 1, 70, 150, 400):
        for found, expected in zip(ours.lookup(idx, last), theirs.lookup(idx, last), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_models_side_by_side_are_each_asked_their_own(threads: int) -> None:
    text = random_text(3000, 11)
    parts = [NGramModel.fit(part, 11, order=5) for part in np.split(text, 3)]
    beside = side_by_side([NGramModel.fit(part, 11, order=5) for part in np.split(text, 3)])
    ours = NGramLanguageModel(beside, 64)
    use_ngram_kernels(ours)
    idx = torch.from_numpy(random_text(3 * 80, 11, seed=2)).view(3, 80)
    which = torch.tensor([2, 0, 1])
    found = ours.lookup(idx, 64, which)
    for row, number in enumerate(which.tolist()):
        expected = NGramLanguageModel(parts[number], 64).lookup(idx[row : row + 1], 64)
        for each, other in zip(found, expected, strict=True):
            torch.testing.assert_close(each[row : row + 1], other, rtol=1e-5, atol=1e-6)


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    model = NGramLanguageModel(NGramModel.fit(random_text(500, 7), 7, order=3), 64)
    use_ngram_kernels(model)
    for token in (-1, 7, 2**40):
        with pytest.raises(IndexError, match="below 7"):
            model.lookup(torch.tensor([[1, token, 2]]))
        recent = ContextCounts(7)
        recent.kernels = ngram_kernels()
        with pytest.raises(IndexError, match="below 7"):
            recent(torch.tensor([[1, token, 2]]), torch.full((1, 3, 7), 1 / 7))


@given(
    vocab_size=st.sampled_from([2, 5, 65, 1200]),
    rows=st.integers(1, 3),
    length=st.integers(1, 200),
    last=st.integers(1, 200),
    distinct=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_blocks_own_counts_and_their_gradients_are_torchs(
    vocab_size: int, rows: int, length: int, last: int, distinct: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    idx = torch.randint(min(distinct, vocab_size), (rows, length), generator=generator)
    p = torch.rand(rows, min(last, length), vocab_size, generator=generator).softmax(-1)
    weight = torch.randn(p.shape, generator=generator)
    found = []
    for fused in (True, False):
        recent = ContextCounts(vocab_size)
        if fused:
            recent.kernels = ngram_kernels()
        mixed, came = recent(idx, p)
        (slope,) = torch.autograd.grad((mixed.log() * weight).sum(), recent.log_strength)
        found.append((mixed.detach(), came, slope))
    (mixed, came, slope), (other, also, steepness) = found
    assert torch.equal(came, also)
    torch.testing.assert_close(mixed, other, rtol=1e-5, atol=1e-7)
    scale = float(weight.abs().sum())
    torch.testing.assert_close(slope, steepness, rtol=1e-3, atol=1e-6 * scale)


def test_a_network_with_counts_says_and_learns_the_same(threads: int) -> None:
    config = ModelConfig(block_size=24, n_layer=1, n_head=2, n_embd=32, with_counts=True)
    counted = NGramModel.fit(random_text(4000, 13), 13, order=4)
    idx = torch.from_numpy(random_text(2 * 121, 13, seed=1)).view(2, 121)
    found = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = build(config, 13, counted)
        if fused:
            use_ngram_kernels(model)
        _, loss = model(idx[:, :-1], idx[:, -24:])
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for each, other in zip(*found, strict=True):
        torch.testing.assert_close(each, other, rtol=1e-4, atol=1e-6)


def test_rows_too_long_for_c_are_torchs() -> None:
    recent = ContextCounts(65)
    recent.kernels = ngram_kernels()
    idx = torch.randint(65, (1, LONGEST_ROW + 1), generator=torch.Generator().manual_seed(0))
    p = torch.full((1, 2, 65), 1 / 65)
    for each, other in zip(recent(idx, p), recent.by_torch(idx, p), strict=True):
        assert torch.equal(each, other)
