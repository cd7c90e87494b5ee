"""The safetensors format without copies of a model and its optimizer, in both directions.

It is written a piece at a time, and large tensors are not copied: a copy would hold Python's lock,
for which a training waits while a thread saves. The bytes are those of `safetensors.torch.save`,
which holds two copies of a file while it makes it (2.2 GB for AdamW's state of a model of 135
million parameters); its `load` copies a file once more. Tensors that are read are views of the
file.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import torch

from hornbook.storage.arrays import Data, stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

# Smaller tensors are gathered into pieces of so many bytes: a piece is a write and a hash.
PIECE_BYTES = 1 << 22
# In the order in which the library writes them: the widest first.
DTYPES = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64",
    torch.float32: "F32", torch.uint32: "U32", torch.int32: "I32",
    torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16", torch.int16: "I16",
    torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
ORDER = {dtype: place for place, dtype in enumerate(DTYPES)}
NAMED = {name: dtype for dtype, name in DTYPES.items()}


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a file with these tensors: large ones as they are in memory, others together."""
    names = sorted(tensors, key=lambda name: (ORDER[tensors[name].dtype], name))
    header: dict[str, object] = {}
    at = 0
    for name in names:
        tensor = tensors[name]
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]
        }  # fmt: skip
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    gathered: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text]
    for name in names:
        data = bytes_of(tensors[name])
        large = len(data) >= PIECE_BYTES
        if gathered and (large or sum(map(len, gathered)) >= PIECE_BYTES):
            yield b"".join(gathered)
            gathered.clear()
        if large:
            yield data
        else:
            gathered.append(data)
    if gathered:
        yield b"".join(gathered)


def tensors_in(data: Data) -> dict[str, Tensor]:
    """The tensors of a file as views of its bytes: copy them before the file is let go of.

    Raises: ValueError, KeyError or TypeError for what is not in this format.
    """
    return {
        name: torch.frombuffer(
            data, dtype=NAMED[dtype], count=math.prod(shape), offset=start
        ).view(shape)
        if math.prod(shape)
        else torch.empty(shape, dtype=NAMED[dtype])
        for name, dtype, shape, start in stored(data)
    }  # fmt: skip


def bytes_of(tensor: Tensor) -> memoryview:
    """The numbers of a tensor, little-endian as on every machine that torch runs on.

    They are the tensor's own memory, where that is contiguous and not a GPU's.
    """
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
