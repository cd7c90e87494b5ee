"""ONNX: the network as two graphs of plain operators, one with a key-value cache.

The folder is laid out for transformers.js. `onnx_gpt.py` and `onnx_gpt2.py` build the graphs.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hornbook.errors import ConfigError
from hornbook.interop import gpt2, hf, onnx_gpt, onnx_gpt2
from hornbook.interop.check import WINDOW, Engine
from hornbook.language import msg
from hornbook.models.gpt import GPT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnxruntime
    from numpy.typing import NDArray

    from hornbook.interop.check import Text
    from hornbook.interop.request import Request
    from hornbook.runs.load import TrainedModel

TOLERANCE = 1e-3
CACHED, UNCACHED = "onnx/model.onnx", "onnx/model_without_cache.onnx"
# protobuf's limit for a file.
MOST_BYTES = 2**31 - 2**20


def files(trained: TrainedModel, _: Request) -> dict[str, bytes]:
    """The files of the folder by name.

    Raises: ConfigError for a model that does not fit one file of ONNX.
    """
    model = trained.model
    if 4 * model.parameter_count > MOST_BYTES:
        raise ConfigError(msg("--to onnx: a graph holds 2 GB, and this model's weights are larger"))

    tensors = model.state_dict()
    network = partial(onnx_gpt.network, model.schema) if isinstance(model, GPT) else None
    if network is None:
        config, tensors = gpt2.form(trained)
        network = partial(onnx_gpt2.network, config)
    arrays = {name: each.float().cpu().contiguous().numpy() for name, each in tensors.items()}
    return {
        **hf.settings(trained),
        CACHED: network(arrays, cached=True),
        UNCACHED: network(arrays, cached=False),
    }


def notes(_: TrainedModel, __: Request, ___: Text) -> list[str]:
    """Nothing: the graphs hold windows themselves."""
    return []


def engines(folder: Path, trained: TrainedModel, _: Request, __: Text) -> Iterator[Engine]:
    """onnxruntime with each graph; the cached one reads every text in two halves.

    Raises: ImportError where it is not installed.
    """
    import onnxruntime

    window = min(WINDOW, trained.model.context_size)

    def session(name: str) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])

    uncached, cached = session(UNCACHED), session(CACHED)
    engine = f"onnxruntime {onnxruntime.__version__}"

    def whole(tokens: NDArray[np.int64]) -> NDArray[Any]:
        given = {"input_ids": tokens[None], "attention_mask": np.ones((1, len(tokens)), np.int64)}
        return np.asarray(uncached.run(["logits"], given)[0])[0]

    def halves(tokens: NDArray[np.int64]) -> NDArray[Any]:
        cache = empty_cache(cached)
        found: list[NDArray[Any]] = []
        read = 0
        for part in np.array_split(tokens, 2) if len(tokens) > 1 else [tokens]:
            read += len(part)
            given = {"input_ids": part[None], "attention_mask": np.ones((1, read), np.int64)}
            logits, *present = cached.run(None, given | cache)
            cache = dict(zip(cache, present, strict=True))
            found.append(np.asarray(logits)[0])
        return np.concatenate(found)

    yield Engine(msg("{engine}, without a cache", engine=engine), whole, window, TOLERANCE)
    yield Engine(msg("{engine}, with a cache", engine=engine), halves, window, TOLERANCE)


def empty_cache(session: onnxruntime.InferenceSession) -> dict[str, NDArray[Any]]:
    """The cache to begin a text with, as a graph's inputs describe it."""
    shapes = {each.name: each.shape for each in session.get_inputs()}
    return {
        name: np.zeros((1, shape[1], 0, shape[3]), np.float32)
        for name, shape in shapes.items()
        if name.startswith("past")
    }
