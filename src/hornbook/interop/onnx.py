"""ONNX: the GPT as two graphs of plain operators, one with a key-value cache.

The folder is laid out for transformers.js, whose names the inputs and outputs have. The graphs are
built operator by operator, so that every length stays open, that of the cache too.

Shapes in names: B batch, T new positions, P cached ones, S = P + T, C n_embd, H heads, K
heads of keys and values, D head width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hornbook.errors import ConfigError
from hornbook.interop import hf
from hornbook.interop.check import WINDOW, Engine, gpt_of
from hornbook.models.gpt import scaled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from hornbook.interop.check import Text
    from hornbook.interop.request import Request
    from hornbook.models.schema import Schema
    from hornbook.runs.load import TrainedModel

TOLERANCE = 1e-3
CACHED, UNCACHED = "onnx/model.onnx", "onnx/model_without_cache.onnx"
# Operators of 2023, which engines in browsers have; a format of the same year.
OPSET, IR_VERSION = 18, 9
# protobuf's limit for a file.
MOST_BYTES = 2**31 - 2**20


class Graph:
    """A graph being built: its nodes, and its constants by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}

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


def files(trained: TrainedModel, _: Request) -> dict[str, bytes]:
    """The files of the folder by name.

    Raises: ConfigError for a model that does not fit one file of ONNX.
    """
    model = gpt_of(trained)
    if 4 * model.parameter_count > MOST_BYTES:
        raise ConfigError("--to onnx: a graph holds 2 GB, and this model's weights are larger")
    weights = {name: each.float().cpu().numpy() for name, each in model.state_dict().items()}
    return {
        **hf.settings(trained),
        CACHED: network(model.schema, weights, cached=True),
        UNCACHED: network(model.schema, weights, cached=False),
    }


def network(schema: Schema, weights: dict[str, NDArray[Any]], *, cached: bool) -> bytes:
    """The network as a file of ONNX.

    Inputs: input_ids [B,T]; attention_mask [B,S], 0 for padding, which is at the left; with a cache
    past_key_values.i.key and .value [B,H,P,D], where P may be 0. Outputs: logits [B,T,V]; with a
    cache present.i.key and .value [B,H,S,D].
    """
    g = Graph()
    for name, array in weights.items():
        if not (schema.tied and name == "logits.weight"):
            # Products take inputs first.
            is_table = array.ndim == 1 or name == "embedding.weight"
            g.constant(np.ascontiguousarray(array if is_table else array.T), name)
    zero, one = g.constant(np.array(0, np.int64)), g.constant(np.array(1, np.int64))
    new = g("Gather", g("Shape", "input_ids"), one)
    past = g("Gather", g("Shape", cache_name("past", 0, "key")), g.ints(2)) if cached else ""
    past = g("Squeeze", past) if cached else zero
    end = g("Add", past, new)
    places_T = g("Range", past, end, one)
    cos, sin = rotary_angles(g, schema, positions(g, past, end))
    mask = masked(g, schema, places_T, g("Range", zero, end, one))
    x_BTC = g("Gather", "embedding.weight", "input_ids")
    for i in range(schema.n_layer):
        x_BTC = block(g, schema, i, x_BTC, (cos, sin, mask), cached=cached)
    x_BTC = rms_norm(g, schema, x_BTC, "norm.weight")
    table = g("Transpose", "embedding.weight", perm=[1, 0]) if schema.tied else "logits.weight"
    g.rename(g("MatMul", x_BTC, table), "logits")
    return packed(g, schema, cached=cached)


def positions(g: Graph, past: str, end: str) -> str:
    """The position of each new token, padding not counted: [B,T]."""
    counted_BS = g("CumSum", "attention_mask", g.ints(1))
    before_BS = g("Max", g("Sub", counted_BS, g.ints(1)), g.ints(0))
    first, last = (g("Unsqueeze", each, g.ints(0)) for each in (past, end))
    return g("Slice", before_BS, first, last, g.ints(1))


def rotary_angles(g: Graph, schema: Schema, positions_BT: str) -> tuple[str, str]:
    """Cosine and sine of each position's rotation: [B,T] -> two of [B,1,T,D]."""
    D = schema.head_width
    exponents = np.arange(0, D, 2, dtype=np.float32) / np.float32(D)
    speeds = np.float32(schema.rotary_base) ** -exponents
    if schema.rotary_scaling is not None:
        speeds = scaled(torch.from_numpy(speeds), schema.rotary_scaling).numpy()
    column = g("Unsqueeze", g("Cast", positions_BT, to=1), g.ints(1, 3))
    half = g("Mul", column, g.constant(speeds[None]))
    angles = g("Concat", half, half, axis=-1)
    return g("Cos", angles), g("Sin", angles)


def masked(g: Graph, schema: Schema, queries_T: str, keys_S: str) -> str:
    """What is added to scores, [B,1,T,S]: 0 for a position in the window, the least number else.

    Padding sees nothing; of minus infinity alone its probabilities would not be numbers.
    """
    query_T1, key_1S = g("Unsqueeze", queries_T, g.ints(1)), g("Unsqueeze", keys_S, g.ints(0))
    hidden = g("Greater", key_1S, query_T1)
    if schema.window is not None:
        age_TS = g("Sub", query_T1, key_1S)
        hidden = g("Or", hidden, g("GreaterOrEqual", age_TS, g.ints(schema.window)))
    padding = g("Equal", g("Unsqueeze", "attention_mask", g.ints(1, 2)), g.ints(0))
    least = float(np.finfo(np.float32).min)
    return g("Where", g("Or", hidden, padding), g.floats(least), g.floats(0.0))


def block(
    g: Graph, schema: Schema, i: int, x_BTC: str, shared: tuple[str, str, str], *, cached: bool
) -> str:
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

    def grouped(name: str) -> str:
        """Keys or values for each group of queries: [B,K,S,D] -> [B,H,S,D]."""
        if K == H:
            return name
        wide = g("Expand", g("Unsqueeze", name, g.ints(2)), g.ints(1, 1, H // K, 1, 1))
        return g("Reshape", wide, g.ints(0, H, -1, D))

    read = rms_norm(g, schema, x_BTC, f"{at}.attention_norm.weight")
    q_BHTD, k_BKSD, v_BKSD = heads("query", H), heads("key", K), heads("value", K)
    if cached:
        k_BKSD = g("Concat", cache_name("past", i, "key"), k_BKSD, axis=2)
        v_BKSD = g("Concat", cache_name("past", i, "value"), v_BKSD, axis=2)
        g.rename(k_BKSD, cache_name("present", i, "key"))
        g.rename(v_BKSD, cache_name("present", i, "value"))
    scores = g("Mul", q_BHTD, g.floats(D**-0.5))
    scores = g("MatMul", scores, g("Transpose", grouped(k_BKSD), perm=[0, 1, 3, 2]))
    y_BHTD = g("MatMul", g("Softmax", g("Add", scores, mask), axis=-1), grouped(v_BKSD))
    y_BTC = g("Reshape", g("Transpose", y_BHTD, perm=[0, 2, 1, 3]), g.ints(0, 0, H * D))
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


def cache_name(when: str, layer: int, part: str) -> str:
    """The name of a layer's keys or values, as transformers.js and optimum have it."""
    return f"{'past_key_values' if when == 'past' else when}.{layer}.{part}"


def packed(g: Graph, schema: Schema, *, cached: bool) -> bytes:
    """The file of a graph."""
    from onnx import TensorProto, checker, helper, numpy_helper

    def value(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    def cache(when: str, length: str) -> list[onnx.ValueInfoProto]:
        shape = ("batch", schema.n_kv_head, length, schema.head_width)
        layers, parts = range(schema.n_layer), ("key", "value")
        names = [cache_name(when, i, part) for i in layers for part in parts if cached]
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
            value("logits", TensorProto.FLOAT, ("batch", "new", schema.vocab_size)),
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


def notes(_: TrainedModel, __: Request, ___: Text) -> list[str]:
    """Nothing: the graphs hold the windows themselves."""
    return []


def engines(folder: Path, trained: TrainedModel, _: Request, __: Text) -> Iterator[Engine]:
    """onnxruntime with each graph; the cached one reads every text in two halves.

    Raises: ImportError where it is not installed.
    """
    import onnxruntime

    model = gpt_of(trained)
    schema, window = model.schema, min(WINDOW, model.context_size)

    def session(name: str) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])

    uncached, cached = session(UNCACHED), session(CACHED)
    engine = f"onnxruntime {onnxruntime.__version__}"

    def whole(tokens: NDArray[np.int64]) -> NDArray[Any]:
        given = {"input_ids": tokens[None], "attention_mask": np.ones((1, len(tokens)), np.int64)}
        return np.asarray(uncached.run(["logits"], given)[0])[0]

    def halves(tokens: NDArray[np.int64]) -> NDArray[Any]:
        cache = empty_cache(schema)
        found: list[NDArray[Any]] = []
        read = 0
        for part in np.array_split(tokens, 2) if len(tokens) > 1 else [tokens]:
            read += len(part)
            given = {"input_ids": part[None], "attention_mask": np.ones((1, read), np.int64)}
            logits, *present = cached.run(None, given | cache)
            cache = dict(zip(cache, present, strict=True))
            found.append(np.asarray(logits)[0])
        return np.concatenate(found)

    yield Engine(f"{engine}, without a cache", whole, window, TOLERANCE)
    yield Engine(f"{engine}, with a cache", halves, window, TOLERANCE)


def empty_cache(schema: Schema) -> dict[str, NDArray[Any]]:
    """The cache to begin a text with, by the names of the graph's inputs."""
    empty = np.zeros((1, schema.n_kv_head, 0, schema.head_width), np.float32)
    layers, parts = range(schema.n_layer), ("key", "value")
    return {cache_name("past", i, part): empty for i in layers for part in parts}
