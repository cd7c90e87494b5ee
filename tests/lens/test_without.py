"""What-ifs: what is left follows the formula, and afterwards all is as before, to the bit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kinds import KINDS, TOKENIZERS, WITH_LAYERS, model_of
from torch import Tensor

from hornbook.errors import ConfigError
from hornbook.eval.loss import losses
from hornbook.infer import Engine
from hornbook.lens.look import look
from hornbook.lens.without import without
from hornbook.models.gpt import GPT
from hornbook.models.language_model import LanguageModel
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.transformer import LayerNormLanguageModel

CHARACTERS = TOKENIZERS["char"]
PROMPT = "not to be, to be or not"
IDX = torch.tensor([CHARACTERS.encode(PROMPT)])


def logits(model: LanguageModel) -> Tensor:
    with torch.no_grad():
        return model(IDX)[0]


def joined() -> GPTWithCounts:
    model = model_of("joined")
    assert isinstance(model, GPTWithCounts)
    return model


@pytest.mark.parametrize("kind", WITH_LAYERS)
def test_a_head_without_its_values_is_no_head(kind: str) -> None:
    model = model_of(kind)
    layer, head = (0, 0) if kind in ("average", "head") else (0, 1)
    before = logits(model)
    with without(model, heads=[(layer, head)]):
        after = logits(model)
        seen = look(model, CHARACTERS, PROMPT)
    assert not torch.allclose(after, before)
    np.testing.assert_allclose(seen.logits, after[0], rtol=1e-5, atol=1e-5)
    component = f"blocks.{layer}.attn.head.{head}"
    if component in seen.components:
        assert not seen.attribution[seen.components.index(component)].any()
    assert torch.equal(logits(model), before)


def test_a_gpt_without_a_head_is_the_gpt_whose_output_ignores_it() -> None:
    model, cut = model_of("gpt"), model_of("gpt")
    assert isinstance(cut, GPT)
    with torch.no_grad():
        cut.blocks[1].attention.output.weight[:, 8:].zero_()
        cut.blocks[0].mlp.down.weight.zero_()
    with without(model, heads=[(1, 1)], mlps=[0]):
        torch.testing.assert_close(logits(model), logits(cut))


def test_the_lecture_s_transformer_without_everything_is_its_embedding() -> None:
    model = model_of("layernorm")
    assert isinstance(model, LayerNormLanguageModel)
    every_head = [(layer, head) for layer in range(2) for head in range(2)]
    with without(model, heads=every_head, mlps=[0, 1]):
        found = logits(model)
    bias = sum(block.sa.proj.bias for block in list(model.blocks)[:2])
    x = model.token_embedding_table(IDX) + model.position_embedding_table.weight[: IDX.size(1)]
    torch.testing.assert_close(found, model.lm_head(model.blocks[-1](x + bias)))


@pytest.mark.parametrize(
    "kind", [kind for kind in WITH_LAYERS if kind not in ("average", "head", "heads")]
)
def test_without_an_mlp_it_adds_nothing(kind: str) -> None:
    model = model_of(kind)
    before = look(model, CHARACTERS, PROMPT)
    with without(model, mlps=[0]):
        after = look(model, CHARACTERS, PROMPT)
    assert not after["mlp_out", 0].any()
    assert not np.allclose(after.probs, before.probs)


def test_without_n_grams_the_network_is_alone_and_without_it_they_are() -> None:
    model = joined()
    seen = look(model, CHARACTERS, PROMPT)
    with without(model, ngrams=True):
        assert torch.equal(logits(model), model.network(IDX)[0])
    with without(model, network=True):
        found = logits(model)[0].softmax(-1)
    p = F.softmax(
        torch.from_numpy(seen.votes["gate"].weight[:, None] * np.log(seen.votes["gate"].probs)), -1
    )
    torch.testing.assert_close(found, p, rtol=1e-4, atol=1e-6)


def test_without_the_gate_n_grams_weigh_one_and_without_the_cache_nothing_repeats() -> None:
    model = joined()
    votes = look(model, CHARACTERS, PROMPT).votes
    with without(model, gate=True):
        found = logits(model)[0].softmax(-1)
    product = votes["network"].probs * votes["gate"].probs
    np.testing.assert_allclose(
        found, product / product.sum(-1, keepdims=True), rtol=1e-3, atol=1e-6
    )
    with without(model, cache=True):
        seen = look(model, CHARACTERS, PROMPT)
    assert not seen.votes["cache"].probs.any()
    np.testing.assert_array_equal(seen.votes["gate"].probs, votes["ngrams"].probs)
    np.testing.assert_array_equal(seen.votes["ngrams"].weight, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_afterwards_everything_is_as_before_to_the_bit(kind: str) -> None:
    model = model_of(kind)

    def state() -> tuple[object, ...]:
        text = Engine.of(model, CHARACTERS).generate(PROMPT, max_new_tokens=12, seed=3)
        hooks = [
            len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()
        ]
        tokens = np.array(CHARACTERS.encode(PROMPT))
        weights = [bytes(value.numpy()) for value in model.state_dict().values()]
        return weights, text, hooks, bytes(losses(model, tokens, block_size=8))

    before, random = state(), torch.get_rng_state()
    parts: dict[str, object] = {}
    if kind in WITH_LAYERS:
        parts["heads"] = [(0, 0)]
    if kind == "joined":
        parts |= {"mlps": [1], "gate": True, "cache": True}

    def fail_inside() -> None:
        with without(model, **parts):
            assert (state() == before) == (not parts)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert state() == before
    assert torch.equal(torch.get_rng_state(), random)


def test_generation_and_loss_follow_at_once() -> None:
    model = joined()
    text = "to be, or not to be: that is the question."
    tokens = np.array(CHARACTERS.encode(text))
    settings = {"max_new_tokens": 60, "temperature": 0}
    before = Engine.of(model, CHARACTERS).generate("to be", **settings)
    loss = losses(model, tokens, block_size=32).mean()
    with without(model, ngrams=True):
        alone = Engine.of(model, CHARACTERS).generate("to be", **settings)
        assert losses(model, tokens, block_size=32).mean() == pytest.approx(
            losses(model.network, tokens, block_size=32).mean()
        )
    assert alone == Engine.of(model.network, CHARACTERS).generate("to be", **settings) != before
    assert losses(model, tokens, block_size=32).mean() == loss


def test_what_ifs_nest() -> None:
    model = model_of("gpt")
    with without(model, heads=[(0, 0), (1, 1)]):
        both = logits(model)
    with without(model, heads=[(0, 0)]):
        one = logits(model)
        with without(model, heads=[(1, 1)]):
            assert torch.equal(logits(model), both)
        assert torch.equal(logits(model), one)


@pytest.mark.parametrize(
    ("kind", "parts", "message"),
    [
        ("gpt", {"heads": [(2, 0)]}, "without layer 2: the model has layers 0 to 1"),
        ("gpt", {"heads": [(0, -1)]}, "without head -1: the model has heads 0 to 1"),
        ("heads", {"mlps": [0]}, "without MLP 0: the model has no MLP"),
        ("bigram", {"heads": [(0, 0)]}, "without layer 0: the model has no layer"),
        ("gpt", {"ngrams": True}, "this model is a network alone"),
        ("ngram", {"ngrams": True}, "this model is nothing but n-grams"),
        ("joined", {"ngrams": True, "network": True}, "nothing would be left"),
    ],
)
def test_a_part_that_is_not_there_is_named(
    kind: str, parts: dict[str, object], message: str
) -> None:
    model = model_of(kind)
    with pytest.raises(ConfigError, match=message), without(model, **parts):
        pass
    assert not any(part._forward_hooks for part in model.modules())


def test_other_models_than_ours_are_refused() -> None:
    class Theirs(LanguageModel):
        pass

    with pytest.raises(ConfigError, match="expected one of hornbook's models"):
        look(Theirs(CHARACTERS.vocab_size, 8), CHARACTERS, "to")
