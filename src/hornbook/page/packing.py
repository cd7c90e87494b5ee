"""Arrays as bytes that compress well, in the precisions that the page reads (`arrays.js`)."""

import zlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hornbook.infer.native_decoder import bfloat16, quantised

Precision = Literal["float32", "bfloat16", "int8"]
Array = NDArray[Any]

# A page's numbers are packed in less than a second; level 6 takes four times as long for 2% less.
COMPRESSION_LEVEL = 3


class Pack:
    """Arrays one after the other; `index` says where each lies."""

    def __init__(self) -> None:
        self.index: list[dict[str, object]] = []
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, name: str, kind: str, array: Array, data: bytes) -> None:
        """Add an array's bytes."""
        shape = list(array.shape)
        self.index.append({"name": name, "kind": kind, "shape": shape, "offset": self._size})
        self._parts.append(data)
        self._size += len(data)

    def add_numbers(self, name: str, array: Array) -> None:
        """Add an array in its own type: float32, uint32 or uint8."""
        self.add(name, array.dtype.name, array, planes(array))

    def add_weights(self, weights: Mapping[str, Array], precision: Precision) -> None:
        """Add a network's weights; gains and biases stay float32, and a tied table is one."""
        places: dict[int, dict[str, object]] = {}
        for name, array in weights.items():
            if same := places.get(array.ctypes.data):
                self.index.append({**same, "name": name})
                continue
            kind = precision_of(array, precision)
            if kind == "bfloat16":
                self.add(name, kind, array, planes(bfloat16(array)))
            elif kind == "int8":
                codes, scales = quantised(array)
                self.add(name, kind, array, planes(scales.astype(np.float32)) + codes.tobytes())
            else:
                self.add_numbers(name, array)
            places[array.ctypes.data] = self.index[-1]

    def compressed(self) -> bytes:
        """All bytes, as the browser inflates them."""
        return zlib.compress(b"".join(self._parts), COMPRESSION_LEVEL)


def planes(array: Array) -> bytes:
    """The first byte of every number, then the second, and so on: like bytes stand together."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T.tobytes()


def precision_of(array: Array, precision: Precision) -> Precision:
    """The precision that an array is kept in: only matrices are rounded."""
    return precision if array.ndim == 2 else "float32"


def rounded(weights: Mapping[str, Array], precision: Precision) -> dict[str, Array]:
    """The weights as the page has them, in float32."""
    return {name: round_trip(a, precision_of(a, precision)) for name, a in weights.items()}


def round_trip(array: Array, precision: Precision) -> Array:
    """A float32 array rounded to a precision."""
    if precision == "bfloat16":
        return (bfloat16(array).astype(np.uint32) << 16).view(np.float32)
    if precision == "int8":
        codes, scales = quantised(array)
        return codes.astype(np.float32) * scales.astype(np.float32)[:, None]
    return array
