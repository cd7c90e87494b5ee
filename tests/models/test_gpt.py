"""The flagship, compared with plain formulas and with the Qwen3 of the transformers library."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import SMALL, small_gpt

import hornbook as hb
from hornbook.config import ModelConfig
from hornbook.errors import ConfigError
from hornbook.models.gpt import attention, attention_reference, drop, random_bytes
from hornbook.models.schema import Schema


@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    queries=st.integers(1, 9),
    older=st.integers(0, 9),
    width=st.sampled_from([2, 4, 16]),
    window=st.none() | st.integers(1, 9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_fast_attention_is_the_reference(
    batch: int, heads: int, queries: int, older: int, width: int, window: int | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, heads, queries + older, width)
    q, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    q = q[:, :, older:]
    expected = attention_reference(q, k, v, window)
    torch.testing.assert_close(attention(q, k, v, window), expected, rtol=1e-5, atol=1e-6)
    halved = attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), window)
    torch.testing.assert_close(halved.float(), expected, rtol=0.05, atol=0.05)


def test_fast_attention_has_the_references_gradients() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 7, 8, requires_grad=True) for _ in range(3)]
    weight = torch.randn(2, 3, 7, 8)
    gradients = [
        torch.autograd.grad((form(*inputs) * weight).sum(), inputs)
        for form in (attention, attention_reference)
    ]
    for fast, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, reference, rtol=1e-4, atol=1e-5)


def test_no_token_sees_a_later_one() -> None:
    model = small_gpt()
    idx = torch.randint(11, (1, 40))
    logits, _ = model(idx)
    for place in range(1, 40):
        changed = idx.clone()
        changed[0, place:] = (changed[0, place:] + 1) % 11
        altered, _ = model(changed)
        assert torch.equal(altered[0, :place], logits[0, :place])
        assert not torch.equal(altered[0, place], logits[0, place])


def test_the_loss_at_birth_is_that_of_knowing_nothing() -> None:
    # A tied table starts by favouring the token just read: a little worse than knowing nothing.
    for tied, tolerance in ((False, 1e-5), (True, 0.2)):
        torch.manual_seed(1)
        model = hb.GPT(ModelConfig(n_layer=2, tie_embeddings=tied), 65)
        _, loss = model(torch.randint(65, (4, 32)), torch.randint(65, (4, 32)))
        assert loss.item() == pytest.approx(math.log(65), abs=tolerance)


def test_parameters_are_counted_once() -> None:
    untied = hb.GPT(SMALL, 11)
    tied = hb.GPT(ModelConfig(**{**vars(SMALL), "tie_embeddings": True}), 11)
    width, mlp, head = 32, Schema.of(SMALL, vocab_size=1).mlp_width, 16
    block = 4 * width * width + 3 * width * mlp + 2 * width + 2 * head
    assert untied.parameter_count == 2 * block + width + 2 * 11 * width
    assert tied.parameter_count == 2 * block + width + 11 * width


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"n_embd = 30 .* n_head = 4 .* multiple of 8"):
        ModelConfig(n_embd=30, n_head=4)


@pytest.mark.parametrize(
    "sizes",
    [{}, {"tied": True}, {"n_kv_head": 1, "head_width": 24, "mlp_width": 40, "rotary_base": 1e6}],
    ids=["ours", "tied", "grouped queries, free widths"],
)
def test_it_is_qwen3_letter_for_letter(sizes: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    schema = replace(Schema.of(SMALL, vocab_size=11), **sizes)
    model = small_gpt(schema=schema)
    theirs = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=11,
            hidden_size=32,
            intermediate_size=schema.mlp_width,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=schema.n_kv_head,
            head_dim=schema.head_width,
            max_position_embeddings=16,
            use_sliding_window=True,
            sliding_window=16,
            max_window_layers=0,
            rope_theta=schema.rotary_base,
            rms_norm_eps=1e-6,
            tie_word_embeddings=schema.tied,
            attention_bias=False,
        )
    ).eval()
    names = {
        "embedding.": "model.embed_tokens.",
        "blocks.": "model.layers.",
        ".attention_norm.": ".input_layernorm.",
        ".mlp_norm.": ".post_attention_layernorm.",
        ".attention.query_norm.": ".self_attn.q_norm.",
        ".attention.key_norm.": ".self_attn.k_norm.",
        ".attention.query.": ".self_attn.q_proj.",
        ".attention.key.": ".self_attn.k_proj.",
        ".attention.value.": ".self_attn.v_proj.",
        ".attention.output.": ".self_attn.o_proj.",
        ".mlp.gate.": ".mlp.gate_proj.",
        ".mlp.up.": ".mlp.up_proj.",
        ".mlp.down.": ".mlp.down_proj.",
    }
    weights = {}
    for name, weight in model.state_dict().items():
        for ours, other in names.items():
            name = name.replace(ours, other)  # noqa: PLW2901
        weights[
            {"norm.weight": "model.norm.weight", "logits.weight": "lm_head.weight"}.get(name, name)
        ] = weight
    theirs.load_state_dict(weights)
    idx = torch.randint(11, (3, 50))  # read on past the block, through windows
    ours, _ = model(idx)
    torch.testing.assert_close(ours, theirs(idx).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.9])
def test_dropout_takes_its_share_and_keeps_the_mean(rate: float) -> None:
    noise = torch.arange(-128, 128).to(torch.int8)  # every byte once
    for dtype in (torch.float32, torch.bfloat16):
        left = drop(torch.ones(256, dtype=dtype), noise, rate)
        assert left.dtype == dtype
        assert (left == 0).sum() == round(256 * rate)
        assert left.float().mean().item() == pytest.approx(1, abs=0.005)


def test_random_bytes_are_evenly_spread_and_of_the_stream() -> None:
    torch.manual_seed(3)
    noise = random_bytes(101, 333, device=torch.device("cpu"))
    assert noise.shape == (101, 333)
    counts = (noise.flatten().long() + 128).bincount(minlength=256).double()
    expected = noise.numel() / 256
    # Chi-squared of 255 degrees: its mean 255, its standard deviation 23.
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * 23
    torch.manual_seed(3)
    assert torch.equal(noise, random_bytes(101, 333, device=torch.device("cpu")))


def test_dropout_is_of_training_alone() -> None:
    model = small_gpt(config=ModelConfig(**{**vars(SMALL), "dropout": 0.5}))
    idx = torch.randint(11, (2, 16))
    assert torch.equal(model(idx)[0], model(idx)[0])
    model.train()
    assert not torch.equal(model(idx)[0], model(idx)[0])
