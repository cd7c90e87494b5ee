"""What each weight of a GPT is called here, in Hugging Face's Qwen3, and in GGUF."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hornbook.models.schema import BLOCKS

if TYPE_CHECKING:
    from hornbook.models.schema import Schema


class Names(NamedTuple):
    """A weight's name in two other formats; inside a block `{i}` stands for its number."""

    hf: str
    gguf: str


OUTSIDE = {
    "embedding.weight": Names("model.embed_tokens.weight", "token_embd.weight"),
    "norm.weight": Names("model.norm.weight", "output_norm.weight"),
    "logits.weight": Names("lm_head.weight", "output.weight"),
}
INSIDE = {
    f"{ours}.weight": Names(f"model.layers.{{i}}.{hf}.weight", f"blk.{{i}}.{gguf}.weight")
    for ours, hf, gguf in (
        ("attention_norm", "input_layernorm", "attn_norm"),
        ("attention.query", "self_attn.q_proj", "attn_q"),
        ("attention.key", "self_attn.k_proj", "attn_k"),
        ("attention.value", "self_attn.v_proj", "attn_v"),
        ("attention.output", "self_attn.o_proj", "attn_output"),
        ("attention.query_norm", "self_attn.q_norm", "attn_q_norm"),
        ("attention.key_norm", "self_attn.k_norm", "attn_k_norm"),
        ("mlp_norm", "post_attention_layernorm", "ffn_norm"),
        ("mlp.gate", "mlp.gate_proj", "ffn_gate"),
        ("mlp.up", "mlp.up_proj", "ffn_up"),
        ("mlp.down", "mlp.down_proj", "ffn_down"),
    )
}


def names_of(schema: Schema) -> dict[str, Names]:
    """The names of every weight by our own; of a tied table only the first."""
    found = {}
    for ours in schema.weights():
        room, _, rest = ours.partition(".")
        if room == BLOCKS:
            number, _, inner = rest.partition(".")
            found[ours] = Names(*(name.format(i=number) for name in INSIDE[inner]))
        elif not (schema.tied and ours == "logits.weight"):
            found[ours] = OUTSIDE[ours]
    return found
