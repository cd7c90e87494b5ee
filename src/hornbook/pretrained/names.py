"""What each weight is called here, in Hugging Face's Llama, Qwen3 and GPT-2, and in GGUF."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from hornbook.models.schema import BLOCKS, Schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from hornbook.config import ModelConfig
    from hornbook.models.schema import Shape


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


class Part(NamedTuple):
    """Where a weight of ours is in another file: a name, and how to get it out of what is there.

    It is piece `number` of `pieces` along the outputs. `turned` if stored with the inputs first.
    GGUF's Llama has the pairs that rotary positions turn side by side in each of so many `heads`.
    """

    name: str
    number: int = 0
    pieces: int = 1
    turned: bool = False
    heads: int = 0

    def shape(self, stored: Shape) -> Shape:
        """The shape of the weight, from that of what is stored."""
        shape = stored[::-1] if self.turned else stored
        return (shape[0] // self.pieces, *shape[1:]) if shape else shape

    def of(self, stored: Tensor) -> Tensor:
        """The weight, out of what is stored."""
        tensor = stored.T if self.turned else stored
        tensor = tensor.chunk(self.pieces)[self.number]
        if self.heads:
            paired = tensor.view(self.heads, -1, 2, *tensor.shape[1:])
            tensor = paired.transpose(1, 2).reshape(tensor.shape)
        return tensor

    def back(self, weights: Sequence[Tensor]) -> Tensor:
        """What is stored, out of its weights in order of their number: the inverse of `of`."""
        tensor = torch.cat(list(weights))
        if self.heads:
            halves = tensor.view(self.heads, 2, -1, *tensor.shape[1:])
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        return tensor.T if self.turned else tensor


def stored(
    parts: Mapping[str, Part], weights: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Weights by our names as another file has them: each stored tensor by its name."""
    found: dict[str, dict[int, str]] = {}
    for ours, part in parts.items():
        found.setdefault(part.name, {})[part.number] = ours
    for name, numbered in found.items():
        pieces = [numbered[number] for number in sorted(numbered)]
        yield name, parts[pieces[0]].back([weights[piece] for piece in pieces])


# GPT-2's weights by our names: in its own files and in GGUF. Its own files keep products with the
# inputs first, and those of queries, keys and values as one.
GPT2_OUTSIDE = {
    "embedding.weight": Names("wte.weight", "token_embd.weight"),
    "positions.weight": Names("wpe.weight", "position_embd.weight"),
    "norm.weight": Names("ln_f.weight", "output_norm.weight"),
    "norm.bias": Names("ln_f.bias", "output_norm.bias"),
    "logits.weight": Names("lm_head.weight", "output.weight"),
}
GPT2_INSIDE = {
    f"{ours}.{kind}": (Names(f"h.{{i}}.{hf}.{kind}", f"blk.{{i}}.{gguf}.{kind}"), number, pieces)
    for ours, hf, gguf, number, pieces in (
        ("attention_norm", "ln_1", "attn_norm", 0, 1),
        ("attention.query", "attn.c_attn", "attn_qkv", 0, 3),
        ("attention.key", "attn.c_attn", "attn_qkv", 1, 3),
        ("attention.value", "attn.c_attn", "attn_qkv", 2, 3),
        ("attention.output", "attn.c_proj", "attn_output", 0, 1),
        ("mlp_norm", "ln_2", "ffn_norm", 0, 1),
        ("mlp.up", "mlp.c_fc", "ffn_up", 0, 1),
        ("mlp.down", "mlp.c_proj", "ffn_down", 0, 1),
    )
    for kind in ("weight", "bias")
}


def is_product(name: str) -> bool:
    """Whether a weight of GPT-2's own files is stored with the inputs first."""
    return ".c_" in name and name.endswith("weight")


def hf_parts(model: ModelConfig) -> dict[str, Part]:
    """Where each of our weights is in Hugging Face's format, a tied table once."""
    if model.model == "gpt2":
        return {
            ours: Part(
                names.hf, number, pieces, turned="c_" in names.hf and ours.endswith("weight")
            )
            for ours, (names, number, pieces) in gpt2_names(model).items()
        }
    schema = Schema.of(model, vocab_size=1)
    return {ours: Part(names.hf) for ours, names in names_of(schema).items()}


def gguf_parts(model: ModelConfig, *, permuted: bool) -> dict[str, Part]:
    """Where each of our weights is in GGUF; `permuted` for the architecture Llama."""
    if model.model == "gpt2":
        return {
            ours: Part(names.gguf, number, pieces)
            for ours, (names, number, pieces) in gpt2_names(model).items()
        }
    schema = Schema.of(model, vocab_size=1)
    heads = {"attention.query.weight": schema.n_head, "attention.key.weight": schema.n_kv_head}
    return {
        ours: Part(names.gguf, heads=permuted * heads.get(ours.split(".", 2)[-1], 0))
        for ours, names in names_of(schema).items()
    }


def gpt2_names(model: ModelConfig) -> dict[str, tuple[Names, int, int]]:
    """The names of a GPT-2's weights and which piece of them is ours; a tied table once."""
    found = {ours: (names, 0, 1) for ours, names in GPT2_OUTSIDE.items()}
    for i in range(model.n_layer):
        for ours, (names, number, pieces) in GPT2_INSIDE.items():
            numbered = Names(*(name.format(i=i) for name in names))
            found[f"{BLOCKS}.{i}.{ours}"] = numbered, number, pieces
    if model.tie_embeddings:
        del found["logits.weight"]
    return found
