"""A GPT as a graph of ONNX: ours, Llama's and Qwen3's.

Shapes in names: B batch, T new positions, C n_embd, H heads, K heads of keys and values, D head
width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hornbook.interop.onnx_graph import Graph, Sizes, attend, masked, packed, positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbook.models.schema import Schema


def sizes_of(schema: Schema) -> Sizes:
    """What the graph's inputs and outputs depend on."""
    return Sizes(schema.vocab_size, schema.n_layer, schema.n_kv_head, schema.head_width)


def network(schema: Schema, weights: dict[str, NDArray[Any]], *, cached: bool) -> bytes:
    """The network as a file of ONNX; see `Graph` for inputs and outputs."""
    g = Graph(sizes_of(schema), cached=cached)
    for name, array in weights.items():
        if not (schema.tied and name == "logits.weight"):
            # Products take inputs first.
            is_table = array.ndim == 1 or name == "embedding.weight"
            g.constant(np.ascontiguousarray(array if is_table else array.T), name)
    cos, sin = rotary_angles(g, schema)
    mask = masked(g, schema.window)
    x_BTC = g("Gather", "embedding.weight", "input_ids")
    for i in range(schema.n_layer):
        x_BTC = block(g, schema, i, x_BTC, (cos, sin, mask))
    x_BTC = rms_norm(g, schema, x_BTC, "norm.weight")
    table = g("Transpose", "embedding.weight", perm=[1, 0]) if schema.tied else "logits.weight"
    g.rename(g("MatMul", x_BTC, table), "logits")
    return packed(g)


def rotary_angles(g: Graph, schema: Schema) -> tuple[str, str]:
    """Cosine and sine of each position's rotation: two of [B,1,T,D]."""
    D = schema.head_width
    exponents = np.arange(0, D, 2, dtype=np.float32) / np.float32(D)
    speeds = np.float32(schema.rotary_base) ** -exponents
    if schema.rotary_scaling is not None:
        speeds = schema.rotary_scaling.slowed(speeds)
    column = g("Unsqueeze", g("Cast", positions(g), to=1), g.ints(1, 3))
    half = g("Mul", column, g.constant(speeds[None]))
    angles = g("Concat", half, half, axis=-1)
    return g("Cos", angles), g("Sin", angles)


def block(g: Graph, schema: Schema, i: int, x_BTC: str, shared: tuple[str, str, str]) -> str:
    """One block, as `models.gpt.Block` has it."""
    at, (cos, sin, mask) = f"blocks.{i}", shared
    H, K, D = schema.n_head, schema.n_kv_head, schema.head_width

    def heads(name: str, count: int) -> str:
        sizes = g.ints(0, 0, count, D)
        split = g("Reshape", g("MatMul", read, f"{at}.attention.{name}.weight"), sizes)
        if name != "value" and schema.query_key_norm:
            split = rms_norm(g, schema, split, f"{at}.attention.{name}_norm.weight")
        split = g("Transpose", split, perm=[0, 2, 1, 3])
        return split if name == "value" else rotate(g, split, cos, sin)

    read = rms_norm(g, schema, x_BTC, f"{at}.attention_norm.weight")
    y_BTC = attend(g, i, (heads("query", H), heads("key", K), heads("value", K)), mask, H)
    x_BTC = g("Add", x_BTC, g("MatMul", y_BTC, f"{at}.attention.output.weight"))
    read = rms_norm(g, schema, x_BTC, f"{at}.mlp_norm.weight")
    gate = g("MatMul", read, f"{at}.mlp.gate.weight")
    gate = g("Mul", gate, g("Sigmoid", gate))
    wide = g("Mul", gate, g("MatMul", read, f"{at}.mlp.up.weight"))
    return g("Add", x_BTC, g("MatMul", wide, f"{at}.mlp.down.weight"))


def rms_norm(g: Graph, schema: Schema, x: str, gain: str) -> str:
    """Divide by the root mean square over the last dimension, then scale."""
    mean = g("ReduceMean", g("Mul", x, x), g.ints(-1), keepdims=1)
    root = g("Sqrt", g("Add", mean, g.floats(schema.epsilon)))
    return g("Mul", g("Div", x, root), gain)


def rotate(g: Graph, x_BHTD: str, cos: str, sin: str) -> str:
    """Turn each pair (i, i + D/2) of every head by its position's angle."""
    first, second = g.add("Split", x_BHTD, outputs=2, axis=-1, num_outputs=2)
    turned = g("Concat", g("Neg", second), first, axis=-1)
    return g("Add", g("Mul", x_BHTD, cos), g("Mul", turned, sin))
