"""What is seen in a model is what its formula says, and looking changes nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import KINDS, LECTURE, TEXT, TOKENIZERS, WITH_LAYERS, model_of

from hornbook.config import ModelConfig
from hornbook.errors import ConfigError, DataError, UnknownCharacterError
from hornbook.eval.loss import losses
from hornbook.lens.look import look
from hornbook.lens.seen import Seen
from hornbook.lens.votes import occurrences
from hornbook.models.gpt import GPT, attention_reference
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.schema import Schema

CHARACTERS = TOKENIZERS["char"]
PROMPT = "not to be, to be or not: 나의 책"


def looked(kind: str, text: str = PROMPT, **settings: object) -> Seen:
    return look(model_of(kind), CHARACTERS, text, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_have_the_documented_shapes(kind: str) -> None:
    seen = looked(kind)
    T, V = len(PROMPT), CHARACTERS.vocab_size
    layers, heads = {"bigram": (0, 0), "ngram": (0, 0)}.get(kind, (2, 2))
    if kind in ("average", "head"):
        layers = heads = 1
    if kind in ("heads", "feedforward"):
        layers = 1
    assert seen.ids.shape == seen.targets.shape == (T,)
    assert "".join(seen.tokens) == PROMPT
    assert seen.probs.shape == seen.logits.shape == (T, V)
    assert seen.attention.shape == (layers, heads, T, T)
    assert seen.logit_lens.shape == (layers, T, V)
    streams = 0 if kind == "ngram" else layers + 1
    assert seen.residual.shape[:2] == (streams, T)
    assert seen.attribution.shape == (len(seen.components), T)
    for vote in seen.votes.values():
        assert vote.probs.shape == (T, V)
        assert vote.weight.shape == (T,)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_those_of_the_exact_loss(kind: str, name: str) -> None:
    tokenizer = TOKENIZERS[name]
    model = model_of(kind, tokenizer.vocab_size)
    seen = look(model, tokenizer, PROMPT[:16])
    exact = losses(model, seen.ids, block_size=model.context_size)
    if kind == "bigram":  # it reads one token at a time
        exact = losses(model, seen.ids, block_size=1)
    np.testing.assert_allclose(seen.losses, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen.probs.sum(-1), 1, rtol=1e-5)
    whole = b"".join(tokenizer.token_bytes()[i] for i in seen.ids)
    assert whole.decode() == PROMPT[:16]


@pytest.mark.parametrize("kind", WITH_LAYERS)
def test_attention_is_a_softmax_of_queries_and_keys_over_the_past(kind: str) -> None:
    seen = looked(kind)
    np.testing.assert_allclose(seen.attention.sum(-1), 1, rtol=1e-5)
    assert not np.triu(seen.attention, 1).any()
    for layer in range(len(seen.attention)):
        z_THD, v_SHD = seen["z", layer], seen["v", layer]
        mixed_THD = np.einsum("hts,shd->thd", seen.attention[layer], v_SHD)
        np.testing.assert_allclose(z_THD, mixed_THD, rtol=1e-4, atol=1e-5)
        assert seen["pattern", layer - len(seen.attention)] is seen["pattern", layer]
        if kind == "average":
            np.testing.assert_allclose(seen.attention[0, 0, 3, :4], 0.25)
            continue
        rotated = "rot_" if kind in ("gpt", "joined") else ""
        q_THD, k_SHD = seen[rotated + "q", layer], seen[rotated + "k", layer]
        expected = attention_reference(
            *(torch.from_numpy(each).transpose(0, 1)[None] for each in (q_THD, k_SHD, v_SHD))
        )
        np.testing.assert_allclose(z_THD, expected[0].transpose(0, 1), rtol=1e-4, atol=1e-5)


def test_grouped_and_windowed_attention_are_seen_as_they_are() -> None:
    config = ModelConfig(block_size=8, n_layer=2, n_head=4, n_embd=16)
    schema = Schema(
        vocab_size=CHARACTERS.vocab_size, n_layer=2, n_embd=16, n_head=4, n_kv_head=2,
        head_width=6, mlp_width=32, window=8, query_key_norm=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT(config, CHARACTERS.vocab_size, schema).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    seen = look(model, CHARACTERS, PROMPT)
    assert not np.tril(seen.attention, -8).any()
    v_SHD = np.repeat(seen["v", 1], 2, axis=1)
    mixed_THD = np.einsum("hts,shd->thd", seen.attention[1], v_SHD)
    np.testing.assert_allclose(seen["z", 1], mixed_THD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", WITH_LAYERS)
def test_the_lens_at_the_last_layer_is_the_network_s_output(kind: str) -> None:
    seen = looked(kind)
    network = seen.votes["network"].probs
    np.testing.assert_allclose(np.exp(seen.logit_lens[-1]), network, rtol=1e-4, atol=1e-6)
    if kind != "joined":
        np.testing.assert_allclose(network, seen.probs, rtol=1e-5, atol=1e-7)


@settings(deadline=None, max_examples=15)
@given(text=st.text(st.sampled_from(sorted(set(TEXT))), min_size=1, max_size=40), data=st.data())
def test_attribution_adds_up_to_the_logit(text: str, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    token = data.draw(st.none() | st.sampled_from(sorted(set(TEXT))))
    seen = looked(kind, text, token=token)
    logit_T = seen.logits[np.arange(len(text)), seen.targets]
    np.testing.assert_allclose(seen.attribution.sum(0), logit_T, rtol=1e-4, atol=1e-4)
    if token is None:
        assert list(seen.targets[:-1]) == list(seen.ids[1:])
        assert seen.targets[-1] == seen.probs[-1].argmax()
    else:
        assert {seen.vocabulary[i] for i in seen.targets} == {token}


@pytest.mark.parametrize("kind", ["residual", "layernorm", "gpt", "joined"])
def test_heads_and_mlps_add_up_to_the_residual_stream(kind: str) -> None:
    seen = looked(kind)
    embedded = seen["hook_embed"] + (
        seen["hook_pos_embed"] if "hook_pos_embed" in seen.hooks else 0
    )
    np.testing.assert_allclose(seen.residual[0], embedded, rtol=1e-5, atol=1e-6)
    for layer in range(2):
        middle = seen["resid_pre", layer] + seen["attn_out", layer]
        np.testing.assert_allclose(seen["resid_mid", layer], middle, rtol=1e-5, atol=1e-5)
        after = middle + seen["mlp_out", layer]
        np.testing.assert_allclose(seen["resid_post", layer], after, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(seen.residual[layer + 1], seen["resid_post", layer])
        mixed = seen["result", layer].sum(1)
        mixed += seen.activations.get(f"blocks.{layer}.attn.bias", 0)
        np.testing.assert_allclose(seen["attn_out", layer], mixed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["layernorm", "gpt", "joined"])
def test_a_model_in_bfloat16_is_seen_as_it_computes(kind: str) -> None:
    model = model_of(kind)
    model.compute_dtype = torch.bfloat16
    if isinstance(model, GPTWithCounts):
        model.network.compute_dtype = torch.bfloat16
    seen = look(model, CHARACTERS, PROMPT)
    with torch.no_grad():
        expected, _ = model(torch.from_numpy(seen.ids)[None])
    np.testing.assert_array_equal(seen.logits, expected[0].float())
    assert np.abs(seen.probs - looked(kind).probs).max() > 0
    logit_T = seen.logits[np.arange(len(PROMPT)), seen.targets]
    np.testing.assert_allclose(seen.attribution.sum(0), logit_T, atol=0.5)


def test_votes_make_the_joined_model_s_prediction() -> None:
    seen = looked("joined")
    network, ngrams, cache, gate = (
        seen.votes[name] for name in ("network", "ngrams", "cache", "gate")
    )
    mixed = ngrams.weight[:, None] * ngrams.probs + cache.weight[:, None] * cache.probs
    np.testing.assert_allclose(gate.probs, mixed, rtol=1e-3, atol=1e-5)
    logits = np.log(network.probs) + gate.weight[:, None] * np.log(gate.probs)
    logits -= logits.max(-1, keepdims=True)
    joined = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(joined, seen.probs, rtol=1e-3, atol=1e-5)
    for vote in (network, ngrams, gate):
        np.testing.assert_allclose(vote.probs.sum(-1), 1, rtol=1e-4)
    proposed = cache.probs.sum(-1)
    assert set(np.round(proposed, 3)) == {0, 1}
    np.testing.assert_array_equal(proposed > 0.5, cache.count > 0)
    # It proposes nothing but what has occurred in the text itself.
    assert set(np.nonzero(cache.probs)[1]) <= set(seen.ids)


def test_contexts_are_those_that_stand_in_the_training_text() -> None:
    train = CHARACTERS.encode_array(TEXT)
    for kind in ("joined", "ngram"):
        vote = looked(kind, train=train).votes["ngrams"]
        for at, (matched, count) in enumerate(zip(vote.matched, vote.count, strict=True)):
            context = PROMPT[at + 1 - matched : at + 1]
            longer = PROMPT[max(0, at - matched) : at + 1]
            assert count == sum(TEXT.startswith(context, i) for i in range(len(TEXT)))
            assert count > 0
            # Of order 4: three tokens are the longest context.
            assert matched == 3 or matched == at + 1 or longer not in TEXT
    assert looked("joined").votes["ngrams"].count is None


def test_the_cache_s_contexts_are_those_earlier_in_the_text() -> None:
    cache = looked("joined").votes["cache"]
    assert max(cache.matched) > 3
    for at, (matched, count) in enumerate(zip(cache.matched, cache.count, strict=True)):
        context = PROMPT[at + 1 - matched : at + 1]
        earlier = sum(PROMPT.startswith(context, i) for i in range(at + 1 - matched))
        assert count == (earlier if matched else 0)


def test_a_context_of_no_token_stands_everywhere() -> None:
    train, ids = np.array([1, 2, 1, 2], np.uint8), np.array([1, 2])
    assert list(occurrences(train, ids, [0, 2])) == [4, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_looking_changes_nothing(kind: str) -> None:
    model = model_of(kind)
    for part in list(model.modules())[1::2]:  # modes of their own, which must stay
        part.train()

    def state() -> tuple[object, ...]:
        weights = [bytes(value.numpy()) for value in model.state_dict().values()]
        modes = [part.training for part in model.modules()]
        hooks = [len(part._forward_hooks) for part in model.modules()]
        return weights, modes, hooks, bytes(torch.get_rng_state().numpy()), torch.is_grad_enabled()

    before = state()
    first, again = (look(model, CHARACTERS, PROMPT) for _ in range(2))
    assert state() == before
    assert first.probs.tobytes() == again.probs.tobytes()
    with pytest.raises(UnknownCharacterError):
        look(model, CHARACTERS, "unknown: 漢")
    assert state() == before


def test_every_listed_name_is_there_and_others_are_refused() -> None:
    seen = looked("gpt")
    for name in ("hook_embed", "blocks.1.attn.hook_pattern", "blocks.0.hook_resid_mid",
                 "blocks.1.mlp.hook_post", "ln_final.hook_normalized"):  # fmt: skip
        assert name in seen.hooks
        assert np.isfinite(seen[name]).all()
    with pytest.raises(ConfigError, match="no activation 'blocks"):
        seen["blocks.9.hook_resid_pre"]
    with pytest.raises(ConfigError, match="no activation"):
        seen["pattern", 5]


def test_bytes_that_are_no_whole_character_are_named() -> None:
    seen = look(model_of("gpt", 256), TOKENIZERS["byte"], "나!")
    assert seen.tokens == ("<0xEB>", "<0x82>", "<0x98>", "!")


def test_an_empty_text_is_the_end_of_a_line() -> None:
    assert looked("gpt", "").tokens == ("\n",)


def test_what_cannot_be_seen_is_refused_in_one_line() -> None:
    with pytest.raises(DataError, match=r"at most 48 at once"):
        looked("layernorm", "to be " * 20)
    with pytest.raises(ConfigError, match=r"one token to attribute, got 'to': 2 tokens"):
        looked("gpt", token="to")
    config = ModelConfig(block_size=4096, n_layer=6, n_head=8, n_embd=16)
    large = GPT(config, CHARACTERS.vocab_size)
    with pytest.raises(DataError, match=r"takes 6\.4 GB, and at most 1 GB"):
        look(large, CHARACTERS, "to be " * 680)


@pytest.mark.parametrize("kind", [*LECTURE, "gpt"])
def test_likeliest_tokens_come_first(kind: str) -> None:
    seen = looked(kind)
    top = seen.top(3, position=4)
    assert [p for _, p in top] == sorted(seen.probs[4], reverse=True)[:3]
    assert all(seen.vocabulary.index(token) == i for token, i in
               zip([t for t, _ in top], np.argsort(-seen.probs[4])[:3], strict=True))  # fmt: skip
