"""The architectures that can be imported: from their settings to ours, and their weights' names.

Llama and Qwen3 are shapes of `models/gpt.py`, GPT-2 is `models/gpt2.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hornbook.config import Config
from hornbook.errors import ConfigError
from hornbook.language import msg
from hornbook.models.registry import meta_model
from hornbook.models.schema import Schema
from hornbook.pretrained.source import MOST_LAYERS, MOST_WIDTH, SourceError, bounded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hornbook.config import ModelConfig
    from hornbook.models.schema import Shape

SUPPORTED = msg("supported are Llama (SmolLM2, Llama 3), Qwen3 and GPT-2")
# Read at once in evaluation and generation, unless `context_length` asks for more: attention on a
# CPU holds a score for each pair of positions.
CONTEXT_LENGTH, BLOCK_SIZE = 2048, 256


def unsupported(where: str, kind: object) -> SourceError:
    """The error of an architecture that cannot be imported."""
    return SourceError(
        msg(
            "{where}: the architecture {kind!r}: {supported}",
            where=where,
            kind=str(kind)[:40],
            supported=SUPPORTED,
        )
    )


def settings_of(where: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings of a `config.json`.

    Raises: SourceError for an architecture, or a part of it, that is not supported.
    """
    kind = found.get("model_type")
    if kind == "gpt2":
        settings = gpt2_settings(where, found)
    elif kind in ("llama", "qwen3"):
        settings = llama_settings(where, found)
    else:
        raise unsupported(where, kind)
    try:
        Config().override(**settings)
    except ConfigError as error:
        raise SourceError(msg("{where}: {error}", where=where, error=error)) from None
    return settings


def llama_settings(where: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings of a Llama or a Qwen3."""
    expect(where, found, "hidden_act", "silu")
    for name in ("attention_bias", "mlp_bias"):
        expect(where, found, name, False)
    longest = bounded(where, "max_position_embeddings", found.get("max_position_embeddings"), 2**40)
    heads = bounded(where, "num_attention_heads", found.get("num_attention_heads"), MOST_WIDTH)
    width = bounded(where, "hidden_size", found.get("hidden_size"), MOST_WIDTH)
    head_width = found.get("head_dim") or width // heads
    rotary = found.get("rope_parameters") or found.get("rope_scaling") or {}
    if not isinstance(rotary, dict):
        raise SourceError(msg("{where}: rope_parameters: expected an object", where=where))
    return {
        "model": "gpt",
        "n_layer": bounded(where, "num_hidden_layers", found.get("num_hidden_layers"), MOST_LAYERS),
        "n_head": heads,
        "n_embd": width,
        "n_kv_head": bounded(
            where, "num_key_value_heads", found.get("num_key_value_heads") or heads, MOST_WIDTH
        ),
        "head_width": bounded(where, "head_dim", head_width, MOST_WIDTH),
        "mlp_width": bounded(where, "intermediate_size", found.get("intermediate_size"), 2**24),
        "norm_epsilon": found.get("rms_norm_eps", 1e-6),
        "query_key_norm": found["model_type"] == "qwen3",
        "tie_embeddings": found.get("tie_word_embeddings", False),
        "rotary_base": float(rotary.get("rope_theta") or found.get("rope_theta") or 10_000.0),
        "rotary_scaling": scaling_of(where, rotary, longest),
        "sliding_window": window_of(where, found),
        "context_length": min(longest, CONTEXT_LENGTH),
        "block_size": min(longest, BLOCK_SIZE),
        "with_counts": False,
    }


def expect(where: str, found: Mapping[str, Any], name: str, value: object) -> None:
    """Raises: SourceError for a setting with any value but this one."""
    if found.get(name, value) != value:
        raise SourceError(
            msg(
                "{where}: {name} = {found!r}: expected {value!r}",
                where=where,
                name=name,
                found=str(found[name])[:40],
                value=value,
            )
        )


def scaling_of(where: str, rotary: Mapping[str, Any], longest: int) -> tuple[float, ...] | None:
    """The scaling of rotary positions. Raises: SourceError for another kind than Llama 3's."""
    kind = rotary.get("rope_type") or rotary.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise SourceError(
            msg(
                "{where}: rotary positions scaled by {kind!r}: supported are none and llama3",
                where=where,
                kind=str(kind)[:40],
            )
        )
    names = ("factor", "low_freq_factor", "high_freq_factor")
    factors = [each for name in names if isinstance(each := rotary.get(name), int | float)]
    if len(factors) < len(names) or factors[1] >= factors[2]:
        raise SourceError(
            msg("{where}: rotary positions of the kind llama3 without their factors", where=where)
        )
    length = rotary.get("original_max_position_embeddings", longest)
    original = bounded(where, "original_max_position_embeddings", length, 2**40)
    return (*map(float, factors), original)


def window_of(where: str, found: Mapping[str, Any]) -> int | None:
    """The sliding window of all layers. Raises: SourceError where layers differ."""
    if not found.get("use_sliding_window") or not found.get("sliding_window"):
        return None
    kinds = found.get("layer_types")
    if kinds is None and found.get("max_window_layers", 0) not in (0, None):
        kinds = ["full_attention", "sliding_attention"]
    if kinds is not None and set(map(str, kinds)) == {"full_attention"}:
        return None
    if kinds is not None and set(map(str, kinds)) != {"sliding_attention"}:
        raise SourceError(
            msg("{where}: windows in some layers only; supported are all or none", where=where)
        )
    return bounded(where, "sliding_window", found["sliding_window"], 2**40)


def gpt2_settings(where: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings of a GPT-2."""
    activation = found.get("activation_function", "gelu_new")
    if activation not in ("gelu_new", "gelu_pytorch_tanh"):
        raise SourceError(
            msg(
                "{where}: activation_function = {activation!r}: expected gelu_new",
                where=where,
                activation=str(activation)[:40],
            )
        )
    for name in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        expect(where, found, name, False)
    expect(where, found, "scale_attn_weights", True)
    sizes = {
        name: bounded(where, name, found.get(name), most)
        for name, most in (("n_layer", MOST_LAYERS), ("n_head", MOST_WIDTH), ("n_embd", MOST_WIDTH))
    }
    longest = bounded(where, "n_positions", found.get("n_positions"), 2**24)
    return {
        "model": "gpt2",
        **sizes,
        "mlp_width": bounded(where, "n_inner", found.get("n_inner") or 4 * sizes["n_embd"], 2**24),
        "norm_epsilon": found.get("layer_norm_epsilon", 1e-5),
        "tie_embeddings": found.get("tie_word_embeddings", True),
        "context_length": longest,
        "block_size": min(longest, BLOCK_SIZE),
        "with_counts": False,
    }


def shapes_of(model: ModelConfig, vocab_size: int) -> dict[str, Shape]:
    """The shapes of our weights, without allocating them; a tied table once."""
    if model.model == "gpt":
        shapes = Schema.of(model, vocab_size).weights()
    else:
        network = meta_model(model, vocab_size)
        shapes = {name: tuple(each.shape) for name, each in network.state_dict().items()}
    if model.tie_embeddings:
        del shapes["logits.weight"]
    return shapes
