"""The schema of a transformer: its names and shapes are the network's, and other families'."""

import pytest
import torch
from small import SMALL, small_gpt

from hornbook.config import ModelConfig
from hornbook.models.schema import Schema, is_matrix


@pytest.mark.parametrize("tied", [False, True])
def test_it_has_the_names_shapes_and_number_of_the_networks_weights(tied: bool) -> None:
    config = ModelConfig(**{**vars(SMALL), "tie_embeddings": tied})
    model, schema = small_gpt(config=config), Schema.of(config, vocab_size=11)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    assert list(schema.weights().items()) == list(shapes.items())
    assert schema.parameters == model.parameter_count
    block = [name for name, _ in model.blocks[0].named_parameters()]
    assert list(schema.block()) == block
    cache = model.new_cache().layers
    kept = sum(layer.keys_BHSD.numel() + layer.values_BHSD.numel() for layer in cache)
    assert schema.cache_numbers(model.context_size) == kept


def test_muon_takes_matrices_inside_blocks() -> None:
    taken = {
        name for name, shape in Schema.of(SMALL, 11).weights().items() if is_matrix(name, shape)
    }
    assert "blocks.1.mlp.down.weight" in taken
    assert not {"embedding.weight", "logits.weight", "blocks.0.mlp_norm.weight"} & taken
    assert is_matrix("network.blocks.0.mlp.up.weight", (4, 4))


# Parameters as the models' pages give them, to the last one.
FAMILIES = {
    "Qwen3-0.6B": (
        596_049_920,
        Schema(
            vocab_size=151_936, n_layer=28, n_embd=1024, n_head=16, n_kv_head=8, head_width=128,
            mlp_width=3072, rotary_base=1e6, tied=True,
        ),
    ),
    "SmolLM2-135M": (
        134_515_008,
        Schema(
            vocab_size=49_152, n_layer=30, n_embd=576, n_head=9, n_kv_head=3, head_width=64,
            mlp_width=1536, rotary_base=1e5, epsilon=1e-5, query_key_norm=False, tied=True,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("parameters", "schema"), FAMILIES.values(), ids=FAMILIES.keys())
def test_it_describes_other_families(parameters: int, schema: Schema) -> None:
    transformers = pytest.importorskip("transformers")
    family = transformers.LlamaConfig, transformers.LlamaForCausalLM
    if schema.query_key_norm:
        family = transformers.Qwen3Config, transformers.Qwen3ForCausalLM
    config = family[0](
        vocab_size=schema.vocab_size,
        hidden_size=schema.n_embd,
        intermediate_size=schema.mlp_width,
        num_hidden_layers=schema.n_layer,
        num_attention_heads=schema.n_head,
        num_key_value_heads=schema.n_kv_head,
        head_dim=schema.head_width,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        theirs = family[1](config)
    assert sum(weight.numel() for weight in theirs.parameters()) == schema.parameters == parameters
    shapes = sorted(tuple(weight.shape) for weight in theirs.state_dict().values())
    assert shapes == sorted(schema.weights().values())
