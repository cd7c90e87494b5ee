"""A graph of ONNX as it is built: operators, and what decoder-only networks share.

The graphs are built operator by operator, so that every length stays open, that of the cache too.
Inputs and outputs have the names that transformers.js and optimum have for them.

Shapes in names: B batch, T new positions, P cached ones, S = P + T, H heads, K heads of keys and
values, D head width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx
    from numpy.typing import NDArray

# Operators of 2023, which engines in browsers have; a format of the same year.
OPSET, IR_VERSION = 18, 9


class Sizes(NamedTuple):
    """What inputs and outputs depend on; `heads` are those of keys and values."""

    vocab_size: int
    n_layer: int
    heads: int
    head_width: int


class Graph:
    """A graph being built: its nodes, and its constants by name.

    Inputs: input_ids [B,T]; attention_mask [B,S], 0 for padding, which is at the left; if it is
    `cached`, past_key_values.i.key and .value [B,K,P,D], where P may be 0. Outputs: logits [B,T,V];
    if it is `cached`, present.i.key and .value [B,K,S,D].
    """

    def __init__(self, sizes: Sizes, *, cached: bool) -> None:
        self.sizes, self.cached = sizes, cached
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        zero, self.one = self.constant(np.array(0, np.int64)), self.constant(np.array(1, np.int64))
        new = self("Gather", self("Shape", "input_ids"), self.one)
        self.zero = self.past = zero
        if cached:
            length = self("Gather", self("Shape", cache_name("past", 0, "key")), self.ints(2))
            self.past = self("Squeeze", length)
        self.end = self("Add", self.past, new)

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Append an operator; the names of its outputs."""
        from onnx import helper

        number = len(self.nodes)
        names = [f"{operator}_{number}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append an operator with one output; its name."""
        return self.add(operator, *inputs, **attributes)[0]

    def constant(self, value: NDArray[Any], name: str = "") -> str:
        """A constant; its name."""
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = value
        return name

    def floats(self, *values: float) -> str:
        """A constant of float32: a scalar, or a list."""
        return self.constant(np.array(values if len(values) > 1 else values[0], np.float32))

    def ints(self, *values: int) -> str:
        """A constant list of int64."""
        return self.constant(np.array(values, np.int64))

    def rename(self, old: str, new: str) -> None:
        """Give an output of the last nodes the name that the caller expects."""
        self.nodes.append(_identity(old, new))


def _identity(old: str, new: str) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Identity", [old], [new])


def positions(g: Graph) -> str:
    """The position of each new token, padding not counted: [B,T]."""
    counted_BS = g("CumSum", "attention_mask", g.ints(1))
    before_BS = g("Max", g("Sub", counted_BS, g.ints(1)), g.ints(0))
    first, last = (g("Unsqueeze", each, g.ints(0)) for each in (g.past, g.end))
    return g("Slice", before_BS, first, last, g.ints(1))


def masked(g: Graph, window: int | None = None) -> str:
    """What is added to scores, [B,1,T,S]: 0 for a position in the window, the least number else.

    Padding sees nothing; of minus infinity alone its probabilities would not be numbers.
    """
    query_T, key_S = g("Range", g.past, g.end, g.one), g("Range", g.zero, g.end, g.one)
    query_T1, key_1S = g("Unsqueeze", query_T, g.ints(1)), g("Unsqueeze", key_S, g.ints(0))
    hidden = g("Greater", key_1S, query_T1)
    if window is not None:
        age_TS = g("Sub", query_T1, key_1S)
        hidden = g("Or", hidden, g("GreaterOrEqual", age_TS, g.ints(window)))
    padding = g("Equal", g("Unsqueeze", "attention_mask", g.ints(1, 2)), g.ints(0))
    least = float(np.finfo(np.float32).min)
    return g("Where", g("Or", hidden, padding), g.floats(least), g.floats(0.0))


def attend(g: Graph, i: int, made: tuple[str, str, str], mask: str, n_head: int) -> str:
    """Attention of layer i over the cached positions and the new ones: [B,T,HD].

    `made` are the queries, keys and values of the new ones: [B,H,T,D], and two of [B,K,T,D].
    """
    q_BHTD, k_BKTD, v_BKTD = made
    D, K = g.sizes.head_width, g.sizes.heads
    if g.cached:
        k_BKTD = g("Concat", cache_name("past", i, "key"), k_BKTD, axis=2)
        v_BKTD = g("Concat", cache_name("past", i, "value"), v_BKTD, axis=2)
        g.rename(k_BKTD, cache_name("present", i, "key"))
        g.rename(v_BKTD, cache_name("present", i, "value"))

    def grouped(name: str) -> str:
        """Keys or values for each group of queries: [B,K,S,D] -> [B,H,S,D]."""
        if n_head == K:
            return name
        wide = g("Expand", g("Unsqueeze", name, g.ints(2)), g.ints(1, 1, n_head // K, 1, 1))
        return g("Reshape", wide, g.ints(0, n_head, -1, D))

    scores = g("Mul", q_BHTD, g.floats(D**-0.5))
    scores = g("MatMul", scores, g("Transpose", grouped(k_BKTD), perm=[0, 1, 3, 2]))
    y_BHTD = g("MatMul", g("Softmax", g("Add", scores, mask), axis=-1), grouped(v_BKTD))
    return g("Reshape", g("Transpose", y_BHTD, perm=[0, 2, 1, 3]), g.ints(0, 0, n_head * D))


def cache_name(when: str, layer: int, part: str) -> str:
    """The name of a layer's keys or values, as transformers.js and optimum have it."""
    return f"{'past_key_values' if when == 'past' else when}.{layer}.{part}"


def cache_names(sizes: Sizes, when: str) -> list[str]:
    """The names of all layers' keys and values."""
    return [cache_name(when, i, part) for i in range(sizes.n_layer) for part in ("key", "value")]


def packed(g: Graph) -> bytes:
    """The file of a graph."""
    from onnx import TensorProto, checker, helper, numpy_helper

    sizes = g.sizes

    def value(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    def cache(when: str, length: str) -> list[onnx.ValueInfoProto]:
        shape = ("batch", sizes.heads, length, sizes.head_width)
        names = cache_names(sizes, when) if g.cached else []
        return [value(name, TensorProto.FLOAT, shape) for name in names]

    graph = helper.make_graph(
        g.nodes,
        "hornbook",
        [
            value("input_ids", TensorProto.INT64, ("batch", "new")),
            value("attention_mask", TensorProto.INT64, ("batch", "all")),
            *cache("past", "past"),
        ],
        [
            value("logits", TensorProto.FLOAT, ("batch", "new", sizes.vocab_size)),
            *cache("present", "all"),
        ],
        [numpy_helper.from_array(array, name) for name, array in g.constants.items()],
    )
    imports = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        graph, producer_name="hornbook", opset_imports=imports, ir_version=IR_VERSION
    )
    checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
