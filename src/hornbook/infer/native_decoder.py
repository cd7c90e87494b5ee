"""Runs a GPT with decoder.c: packs its weights and returns its logits as numpy arrays.

Shapes in names: R rows (texts generated together), T time, C n_embd, H n_head or n_kv_head, D head
width, F MLP width, V vocabulary; O and I a matrix's outputs and inputs, P its panels of 64 outputs.
"""

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hornbook import cores
from hornbook.errors import CheckpointError
from hornbook.infer.decoder import MOST_ROWS, outside
from hornbook.kernels import NativeUnavailableError, decoder_library
from hornbook.kernels.decoder import PackedLayer, PackedMatrix, PackedModel
from hornbook.language import msg
from hornbook.models.schema import BLOCKS, RotaryScaling, Schema, Shape

Floats: TypeAlias = NDArray[np.float32]
Weights: TypeAlias = Mapping[str, Floats]

Precision = Literal["float32", "bfloat16", "int8"]

PANEL, BLOCK = 64, 256  # outputs, positions of the cache
KINDS: dict[str, int] = {"float32": 0, "bfloat16": 1, "int8": 2}
STORED = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}
PACKED_TOGETHER = 16

MOST_CACHE_BYTES = 1 << 34
# One more thread for each so many. With 0.8 million parameters a token takes 35 microseconds on one
# thread and 37 on two; with 10.65 million (bfloat16) 300 on two, 880 or more on one.
PARAMETERS_WORTH_A_THREAD = 2_000_000
# Unless OMP_NUM_THREADS asks for more.
MOST_THREADS = 16
# "auto" stores larger models in bfloat16: in float32 their weights do not fit the processor's
# caches, and loading them takes nearly all the time of a token (10.65 million: 2.7 ms on one core
# instead of 0.9).
LARGEST_EXACT_PARAMETERS = 4_000_000


def up_to(count: int, multiple: int) -> int:
    """`count` rounded up to a multiple."""
    return -(-count // multiple) * multiple


def aligned(shape: Shape, dtype: DTypeLike) -> NDArray[Any]:
    """An array without contents that starts on a cache line of 64 bytes."""
    size = prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype).reshape(shape)


def pad(array: NDArray[Any], *sizes: int) -> NDArray[Any]:
    """The array with zeros after the end of each dimension, up to `sizes`."""
    return np.pad(array, [(0, size - now) for now, size in zip(array.shape, sizes, strict=True)])


def bfloat16(array: Floats) -> NDArray[np.uint16]:
    """The upper halves of float32 numbers, rounded to nearest even."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def quantised(weight_OI: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Integers from -127 to 127, and the scale of each output."""
    scale_O = np.abs(weight_OI).max(axis=1) / 127
    scale_O[scale_O == 0] = 1.0
    return np.rint(weight_OI / scale_O[:, None]).astype(np.int8), scale_O


def chosen_precision(weights: Weights, precision: Precision | Literal["auto"]) -> Precision:
    """The precision that "auto" stands for."""
    if precision != "auto":
        return precision
    parameters = sum(array.size for array in weights.values())
    return "float32" if parameters <= LARGEST_EXACT_PARAMETERS else "bfloat16"


def cache_bytes(schema: Schema, context_size: int, precision: Precision) -> int:
    """The size of one row's key-value cache.

    Raises: NativeUnavailableError.
    """
    padded = up_to(context_size, BLOCK) * up_to(schema.head_width, 16)
    number_bytes = decoder_library(precision).number_bytes
    return 2 * number_bytes * schema.n_layer * schema.n_kv_head * padded


def choose_threads(parameters: int) -> int:
    """Limited by the cores that may be used (`cores.usable`) and by the work there is to divide."""
    most = max(MOST_THREADS, cores.requested_threads())
    return max(1, min(cores.usable().count, most, parameters // PARAMETERS_WORTH_A_THREAD))


class NativeDecoder:
    """A GPT in C; see `Decoder`. `weights` have the names and shapes of `schema`.

    `precision` is that of the weights; all sums are float32. On a processor that multiplies
    bfloat16, bfloat16 weights have inputs, keys and values in bfloat16 beside them. A row's logits
    are the same to the bit whatever the other rows are, and whether its tokens come at once or one
    by one. Not thread-safe.
    Raises: CheckpointError for weights of another shape; NativeUnavailableError.
    """

    def __init__(
        self,
        schema: Schema,
        weights: Weights,
        *,
        context_size: int,
        precision: Precision | Literal["auto"] = "auto",
        rows: int = 1,
        threads: int = 0,
    ) -> None:
        check_weights(schema.weights(most_layers(schema, weights)), weights)
        self.precision = chosen_precision(weights, precision)
        if cache_bytes(schema, context_size, self.precision) * rows > MOST_CACHE_BYTES:
            raise NativeUnavailableError(
                msg(
                    "the keys and values of {rows} x {context_size:,} positions would take over "
                    "{most} GiB",
                    rows=rows,
                    context_size=context_size,
                    most=MOST_CACHE_BYTES >> 30,
                )
            )
        parameters = sum(array.size for array in weights.values())
        self.threads = threads or choose_threads(parameters)
        self._lanes_worth_threads = 1
        if not threads and self.threads == 1:  # a small model: its crowds are worth more
            self.threads = choose_threads(parameters * min(rows, MOST_ROWS))
            self._lanes_worth_threads = -(-2 * PARAMETERS_WORTH_A_THREAD // parameters)
        self.context_size = context_size
        self.vocab_size = schema.vocab_size
        self.rows = rows
        self._library = decoder_library(self.precision).handle
        self._kept: list[object] = []  # what the C side points to
        model = self._pack(schema, weights)
        self._handle = self._library.hornbook_open(ctypes.byref(model))
        if not self._handle:
            raise MemoryError("no memory for a decoder")
        weakref.finalize(self, self._library.hornbook_close, self._handle)

    def forward(
        self, tokens: Sequence[Sequence[int]], rows: Sequence[int], starts: Sequence[int]
    ) -> Floats:
        """Logits after the last new token of each row, [R,V]; see `Decoder`.

        Raises: IndexError for a token, row or position outside the model, or a row named twice.
        """
        logits_RV = np.empty((len(tokens), self.vocab_size), np.float32)
        self._decode(tokens, rows, starts, logits_RV, every=False)
        return logits_RV

    def forward_all(self, tokens_RT: NDArray[np.integer[Any]]) -> Floats:
        """Logits after each token of texts read from their beginning: [R,T] -> [R,T,V].

        Raises: IndexError as `forward`.
        """
        R, T = tokens_RT.shape
        logits_RTV = np.empty((R, T, self.vocab_size), np.float32)
        self._decode(tokens_RT.tolist(), range(R), [0] * R, logits_RTV, every=True)
        return logits_RTV

    def forward_each(self, tokens: Sequence[int], row: int, start: int) -> Floats:
        """Logits after each new token of one row, [T,V].

        Raises: IndexError as `forward`.
        """
        logits_TV = np.empty((len(tokens), self.vocab_size), np.float32)
        self._decode([tokens], [row], [start], logits_TV, every=True)
        return logits_TV

    def copy(self, source: int, row: int, length: int) -> None:
        """Make a row begin with another's first `length` positions; see `Decoder`.

        Raises: IndexError for a row outside the model, or positions that have not been read.
        """
        if self._library.hornbook_copy(self._handle, source, row, length):
            raise outside(self, (), (source, row), (length,))

    def _decode(
        self, tokens: Sequence[Sequence[int]], rows: Sequence[int], starts: Sequence[int],
        logits: Floats, *, every: bool,
    ) -> None:  # fmt: skip
        R = len(tokens)
        if not len(rows) == len(starts) == R:
            raise outside(self, tokens, rows, starts)
        # One array, because each address that numpy hands out takes a microsecond.
        numbers = np.array([*rows, *starts, *map(len, tokens), *chain(*tokens)], np.int32)
        address = numbers.ctypes.data
        refused = self._library.hornbook_decode(
            self._handle, address + 12 * R, address, address + 4 * R, address + 8 * R,
            R, every, logits.ctypes.data,
        )  # fmt: skip
        if refused:
            raise outside(self, tokens, rows, starts)

    def _pack(self, schema: Schema, weights: Weights) -> PackedModel:
        C, D = schema.n_embd, schema.head_width
        padded_C, padded_D = up_to(C, PANEL), up_to(D, 16)

        def of_heads(weight_OI: Floats) -> Floats:
            """Each head's outputs, padded."""
            weight_HDI = weight_OI.reshape(-1, D, C)
            return pad(weight_HDI, len(weight_HDI), padded_D, C).reshape(-1, C)

        def gain(weight_D: Floats | None) -> int | None:
            return None if weight_D is None else self._pointer(pad(weight_D, padded_D))

        layers = []
        for layer in range(schema.n_layer):
            block = {name: weights[f"{BLOCKS}.{layer}.{name}"] for name in schema.block()}
            qkv = [
                of_heads(block[f"attention.{name}.weight"]) for name in ("query", "key", "value")
            ]
            output = of_heads(block["attention.output.weight"].T).T
            layers.append(
                PackedLayer(
                    self._pointer(pad(block["attention_norm.weight"], padded_C)),
                    self._pointer(pad(block["mlp_norm.weight"], padded_C)),
                    gain(block.get("attention.query_norm.weight")),
                    gain(block.get("attention.key_norm.weight")),
                    self._matrix(np.concatenate(qkv)),
                    self._matrix(output),
                    *(self._matrix(block[f"mlp.{name}.weight"]) for name in ("gate", "up", "down")),
                )
            )
        layer_array = (PackedLayer * schema.n_layer)(*layers)
        self._kept.append(layer_array)
        cosines, sines = rotary_angles(
            self.context_size, D, schema.rotary_base, schema.rotary_scaling
        )
        cached = self.rows * cache_bytes(schema, self.context_size, self.precision) // 8
        return PackedModel(
            self.vocab_size, self.context_size, schema.n_layer,
            schema.n_head, schema.n_kv_head, C, D,
            schema.window or self.context_size, KINDS[self.precision], self.threads, self.rows,
            schema.epsilon,
            self._pointer(pad(weights["embedding.weight"], self.vocab_size, padded_C)),
            self._pointer(cosines), self._pointer(sines),
            self._pointer(pad(weights["norm.weight"], padded_C)),
            ctypes.addressof(layer_array),
            self._matrix(weights["logits.weight"]), self._lanes_worth_threads,
            self._zeros(cached), self._zeros(cached),
        )  # fmt: skip

    def _matrix(self, weight_OI: NDArray[Any]) -> PackedMatrix:
        """A matrix cut into panels in this decoder's precision; see decoder.c, `unpack`."""
        O, I = weight_OI.shape  # noqa: E741
        P = up_to(O, PANEL) // PANEL
        I = up_to(I, 2) if self.precision == "bfloat16" else I  # noqa: E741
        packed_OI, scales = weight_OI, None
        if self.precision == "int8":
            packed_OI, scale_O = quantised(weight_OI)
            scales = self._pointer(pad(scale_O, P * PANEL))
        panels = aligned((P, I * PANEL), STORED[self.precision])
        self._kept.append(panels)
        # A few at a time, in the processor's caches: 2.8 s for SmolLM2-135M, and 4.0 all at once.
        for first in range(0, P, PACKED_TOGETHER):
            part_OI = packed_OI[first * PANEL : (first + PACKED_TOGETHER) * PANEL]
            count = up_to(len(part_OI), PANEL) // PANEL
            part_POI = pad(part_OI, count * PANEL, I).reshape(count, PANEL, I)
            part = np.ascontiguousarray(part_POI.transpose(0, 2, 1))
            if self.precision == "bfloat16":
                part = bfloat16(part).reshape(count, I // 2, 2, PANEL).swapaxes(-1, -2)
            elif self.precision == "int8":
                part = part.reshape(count, I, 4, 16).swapaxes(-1, -2)
            panels[first : first + count] = part.reshape(count, -1)
        return PackedMatrix(panels.ctypes.data, scales, I, P)

    def _pointer(self, array: NDArray[Any]) -> int:
        """The address of an aligned copy that lives as long as this decoder."""
        copy = aligned(array.shape, array.dtype)
        copy[...] = array
        self._kept.append(copy)
        return copy.ctypes.data

    def _zeros(self, count: int) -> int:
        """The address of that many zeros, which take no memory until they are written to."""
        zeros = np.zeros(count, np.float32)
        self._kept.append(zeros)
        return zeros.ctypes.data


def rotary_angles(
    positions: int, head_width: int, base: float, scaling: RotaryScaling | None = None
) -> tuple[Floats, Floats]:
    """Cosine and sine of each position's rotation, in numpy: two of [positions, D/2]."""
    exponents = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    frequencies = np.float32(base) ** -exponents
    if scaling is not None:
        frequencies = scaling.slowed(frequencies)
    angles = np.outer(np.arange(positions, dtype=np.float32), frequencies)
    return np.cos(angles), np.sin(angles)


def most_layers(schema: Schema, weights: Weights) -> int:
    """The layers to look for: one more than there are arrays is wrong already."""
    return min(schema.n_layer, len(weights) + 1)


def check_weights(expected: Mapping[str, Shape], weights: Weights) -> None:
    """Check that weights have exactly the expected names and shapes, in float32.

    Raises: CheckpointError naming the first that is missing, of another shape, or unexpected.
    """
    for name, shape in expected.items():
        array = weights.get(name)
        if array is None or array.shape != shape or array.dtype != np.float32 or not array.size:
            found = "none" if array is None else f"{array.dtype} {list(array.shape)}"
            raise CheckpointError(
                msg(
                    "the weights do not fit config.toml: {name}: expected float32 {shape}, "
                    "found {found}",
                    name=name,
                    shape=list(shape),
                    found=found,
                )
            )
    if unexpected := sorted(weights.keys() - expected.keys()):
        raise CheckpointError(
            msg("the weights do not fit config.toml: unexpected {name}", name=unexpected[0])
        )
