"""A GPT-2 as a graph of ONNX, from the settings and weights of transformers' form of it.

The lecture's transformer has that form too; see `gpt2.py`.

Shapes in names: B batch, T new positions, C n_embd, H heads, D head width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hornbook.interop.onnx_graph import Graph, Sizes, attend, masked, packed, positions

if TYPE_CHECKING:
    from numpy.typing import NDArray


def sizes_of(config: dict[str, Any]) -> Sizes:
    """What the graph's inputs and outputs depend on."""
    heads = config["n_head"]
    return Sizes(config["vocab_size"], config["n_layer"], heads, config["n_embd"] // heads)


def network(config: dict[str, Any], weights: dict[str, NDArray[Any]], *, cached: bool) -> bytes:
    """The network as a file of ONNX; see `Graph` for inputs and outputs."""
    g = Graph(sizes_of(config), cached=cached)
    for name, array in weights.items():
        g.constant(array, name)
    mask = masked(g)
    x_BTC = g("Gather", "transformer.wte.weight", "input_ids")
    x_BTC = g("Add", x_BTC, g("Gather", "transformer.wpe.weight", positions(g)))
    for i in range(config["n_layer"]):
        x_BTC = block(g, config, i, x_BTC, mask)
    x_BTC = layer_norm(g, config, x_BTC, "transformer.ln_f")
    tied = config["tie_word_embeddings"]
    table = "transformer.wte.weight" if tied else "lm_head.weight"
    g.rename(g("MatMul", x_BTC, g("Transpose", table, perm=[1, 0])), "logits")
    return packed(g)


def block(g: Graph, config: dict[str, Any], i: int, x_BTC: str, mask: str) -> str:
    """One block, as `models.gpt2.Block` has it."""
    at, H = f"transformer.h.{i}", config["n_head"]
    read = layer_norm(g, config, x_BTC, f"{at}.ln_1")
    whole, shape = product(g, read, f"{at}.attn.c_attn"), g.ints(0, 0, H, g.sizes.head_width)

    def heads(part: str) -> str:
        return g("Transpose", g("Reshape", part, shape), perm=[0, 2, 1, 3])

    query, key, value = g.add("Split", whole, outputs=3, axis=-1, num_outputs=3)
    y_BTC = attend(g, i, (heads(query), heads(key), heads(value)), mask, H)
    x_BTC = g("Add", x_BTC, product(g, y_BTC, f"{at}.attn.c_proj"))
    read = layer_norm(g, config, x_BTC, f"{at}.ln_2")
    wide = product(g, read, f"{at}.mlp.c_fc")
    wide = g("Relu", wide) if config["activation_function"] == "relu" else gelu(g, wide)
    return g("Add", x_BTC, product(g, wide, f"{at}.mlp.c_proj"))


def product(g: Graph, x: str, name: str) -> str:
    """A product with a bias; GPT-2 stores inputs first, as ONNX takes them."""
    return g("Add", g("MatMul", x, f"{name}.weight"), f"{name}.bias")


def layer_norm(g: Graph, config: dict[str, Any], x: str, name: str) -> str:
    """Normalisation over the last dimension, with gain and bias."""
    epsilon = config["layer_norm_epsilon"]
    weights = f"{name}.weight", f"{name}.bias"
    return g("LayerNormalization", x, *weights, axis=-1, epsilon=epsilon)


def gelu(g: Graph, x: str) -> str:
    """GELU in the form with tanh."""
    cube = g("Mul", g("Mul", x, x), x)
    inside = g("Add", x, g("Mul", cube, g.floats(0.044715)))
    bent = g("Tanh", g("Mul", inside, g.floats(math.sqrt(2 / math.pi))))
    return g("Mul", g("Mul", x, g.floats(0.5)), g("Add", bent, g.floats(1.0)))
