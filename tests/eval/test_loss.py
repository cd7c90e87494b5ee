"""The exact loss: every position once, in every unit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_gpt

import hornbook as hb
from hornbook.errors import DataError
from hornbook.eval.loss import estimate, losses


@given(length=st.integers(2, 90), block=st.integers(1, 16), data=st.data(), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_every_position_is_scored_once_by_the_context_it_should_see(
    length: int, block: int, data: st.DataObject, seed: int
) -> None:
    stride = data.draw(st.integers(1, block))
    model = small_gpt()
    tokens = np.random.default_rng(seed).integers(11, size=length).astype(np.uint8)
    expected = []
    for place in range(1, length):
        # The window that scores `place`: the first, or the first of the later ones to reach it.
        window = max(0, math.ceil((place - block) / stride))
        context = torch.tensor(tokens[window * stride : place].astype(np.int64))
        with torch.no_grad():
            logits, _ = model(context[None])
        expected.append(-torch.log_softmax(logits[0, -1].double(), -1)[int(tokens[place])].item())
    found = losses(model, tokens, block_size=block, stride=stride)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_units_agree() -> None:
    text = "한글은 letters too. " * 30
    for tokenizer in (
        hb.CharTokenizer.from_text(text),
        hb.ByteTokenizer(),
        hb.BPETokenizer.train(text, 300),
    ):
        tokens = tokenizer.encode_array(text)
        model = small_gpt(tokenizer.vocab_size)
        found = hb.evaluate(model, tokenizer, tokens, block_size=16)
        assert found.positions == len(tokens) - 1
        first = tokenizer.token_bytes()[int(tokens[0])]
        chars = len(text) - sum(byte & 0xC0 != 0x80 for byte in first)
        total = found.nats_per_token * found.positions
        assert found.nats_per_char == pytest.approx(total / chars)
        assert found.bits_per_char == pytest.approx(found.nats_per_char / math.log(2))
        size = len(text.encode()) - len(first)
        assert found.bits_per_byte == pytest.approx(total / size / math.log(2))


def test_an_untrained_model_knows_nothing() -> None:
    tokenizer = hb.CharTokenizer.from_text("abcdefgh")
    model = hb.GPT(hb.preset("quick").model, 8)
    found = hb.evaluate(model, tokenizer, tokenizer.encode_array("hgfedcba" * 20), block_size=64)
    assert found.nats_per_char == pytest.approx(math.log(8))
    assert found.sliding_nats_per_char == pytest.approx(math.log(8))
    assert model.training, "evaluation puts the model back as it was"


def test_an_estimate_is_of_whole_blocks_and_always_the_same() -> None:
    model = small_gpt()
    tokens = np.random.default_rng(0).integers(11, size=500).astype(np.uint8)
    exact = losses(model, tokens, block_size=16)
    part = losses(model, tokens, block_size=16, max_positions=64)
    assert len(part) == 64
    assert set(np.round(part, 4)) <= set(np.round(exact, 4))
    assert estimate(model, tokens, block_size=16, max_positions=64) == pytest.approx(part.mean())
    assert estimate(model, tokens, block_size=16, max_positions=9999) == pytest.approx(exact.mean())


def test_of_many_positions_the_loss_is_estimated_with_its_error() -> None:
    tokenizer = hb.CharTokenizer.from_text("abcdefghijk")
    model = small_gpt(11)
    tokens = np.random.default_rng(1).integers(11, size=20_001).astype(np.uint8)
    exact = hb.evaluate(model, tokenizer, tokens, block_size=16, max_positions=20_000)
    assert (exact.positions, exact.standard_error) == (20_000, None)
    found = hb.evaluate(model, tokenizer, tokens, block_size=16, max_positions=4_000)
    assert found.positions == 4_000
    error = found.standard_error
    assert error is not None
    means = losses(model, tokens, block_size=16, max_positions=4_000).reshape(250, 16).mean(axis=1)
    assert error == pytest.approx(means.std(ddof=1) / math.sqrt(250))
    assert 0 < abs(found.nats_per_char - exact.nats_per_char) < 5 * error
    assert abs(found.sliding_nats_per_char - exact.sliding_nats_per_char) < 5 * error


def test_one_token_cannot_be_evaluated() -> None:
    with pytest.raises(DataError, match="1 token,"):
        losses(small_gpt(), np.array([3], np.uint8), block_size=16)
