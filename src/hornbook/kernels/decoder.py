"""A GPT's weights packed for decoder.c, and its logits as numpy arrays.

Shapes in names: R rows (texts side by side), T time, C n_embd, H n_head, D head width, F MLP
width, V vocabulary; O and I a matrix's outputs and inputs, P its panels of 64 outputs.
"""

import ctypes
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hornbook.config import ModelConfig
from hornbook.errors import CheckpointError
from hornbook.kernels.library import NativeUnavailableError, Sources, shared_library

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]
Precision = Literal["float32", "bfloat16", "int8"]

DECODER = Sources(("decoder.c", "vectors.h"))
PANEL = 64
EPSILON = 1e-6
ROTARY_BASE = 10_000.0
KINDS: dict[str, int] = {"float32": 0, "bfloat16": 1, "int8": 2}

MOST_CACHE_BYTES = 1 << 34
# A second thread for each so many. At 0.8 million one thread reads a token in 35 microseconds, two
# in 37; at 10.65 million (bfloat16) two take 300, one 880 or more.
PARAMETERS_WORTH_A_THREAD = 2_000_000
# Above this many, weights in bfloat16: in float32 they leave the processor's caches, and reading
# them is nearly all that a token costs (at 10.65 million 2.7 ms on one core, against 0.9).
LARGEST_EXACT_PARAMETERS = 4_000_000


class Matrix(ctypes.Structure):
    """decoder.c's Matrix."""

    _fields_ = (
        ("panels", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("inputs", ctypes.c_int32),
        ("count", ctypes.c_int32),
    )


class Layer(ctypes.Structure):
    """decoder.c's Layer."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("attention_norm", "mlp_norm")),
        *((name, ctypes.c_void_p) for name in ("query_norm", "key_norm")),
        *((name, Matrix) for name in ("qkv", "output", "gate", "up", "down")),
    )


class Model(ctypes.Structure):
    """decoder.c's Model."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("vocab_size", "context_size", "n_layer", "n_head")),
        *(
            (name, ctypes.c_int32)
            for name in ("width", "head_width", "window", "kind", "threads", "rows")
        ),
        ("epsilon", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("embedding", "cosines", "sines", "norm", "layers")),
        ("logits", Matrix),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
    )


def up_to(count: int, multiple: int) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """A copy that starts on a cache line of 64 bytes."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def pad(array: NDArray[Any], *sizes: int) -> NDArray[Any]:
    """Zeros after the end of each dimension, up to `sizes`."""
    return np.pad(array, [(0, size - now) for now, size in zip(array.shape, sizes, strict=True)])


def bfloat16(array: Floats) -> NDArray[np.uint16]:
    """The upper halves of float32 numbers, rounded to nearest even."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def quantised(weight_OI: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Whole numbers from -127 to 127, and each output's scale."""
    scale_O = np.abs(weight_OI).max(axis=1) / 127
    scale_O[scale_O == 0] = 1.0
    return np.rint(weight_OI / scale_O[:, None]).astype(np.int8), scale_O


def weight_names(n_layer: int) -> list[str]:
    """The names that `models.gpt.GPT` gives its weights."""
    parts = ["attention_norm", "mlp_norm", "mlp.gate", "mlp.up", "mlp.down"]
    of_attention = ("query", "key", "value", "output", "query_norm", "key_norm")
    parts += [f"attention.{part}" for part in of_attention]
    blocks = [f"blocks.{layer}.{part}.weight" for layer in range(n_layer) for part in parts]
    return ["embedding.weight", *blocks, "norm.weight", "logits.weight"]


def cache_bytes(config: ModelConfig) -> int:
    """What the keys and values of one row take."""
    padded = up_to(config.context_size, PANEL) * up_to(config.head_width, 16)
    return 2 * 4 * config.n_layer * config.n_head * padded


def choose_precision(parameters: int) -> Precision:
    """What "auto" means: exact where that is fast, bfloat16 above."""
    return "float32" if parameters <= LARGEST_EXACT_PARAMETERS else "bfloat16"


def choose_threads(parameters: int) -> int:
    """As many as there are cores to run on and work to share out; OMP_NUM_THREADS has its say."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    wanted = min(int(asked), cores) if asked.isdecimal() and int(asked) else min(cores, 16)
    return max(1, min(wanted, parameters // PARAMETERS_WORTH_A_THREAD))


def decoder_library() -> ctypes.CDLL:
    """decoder.c, and what its functions take.

    Raises: NativeUnavailableError with the reason in one line.
    """
    library = shared_library(DECODER)
    library.hornbook_open.restype = ctypes.c_void_p
    library.hornbook_close.argtypes = [ctypes.c_void_p]
    library.hornbook_read.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int32] * 4, ctypes.c_void_p
    ]  # fmt: skip
    return library


class Decoder:
    """A GPT that reads up to `rows` texts side by side: tokens in, next tokens' logits out.

    `weights` are named as `models.gpt.GPT` names them. `precision` is that of the weights alone:
    all sums are float32. A row's logits are the same to the bit whatever the other rows, and
    whether its tokens come at once or one by one. Not for two threads at a time.
    Raises: CheckpointError for weights that are not of this shape; NativeUnavailableError.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        *,
        precision: Precision | Literal["auto"] = "auto",
        rows: int = 1,
        threads: int = 0,
    ) -> None:
        check_shapes(config, weights)
        if cache_bytes(config) * rows > MOST_CACHE_BYTES:
            raise NativeUnavailableError(
                f"the keys and values of {rows} x {config.context_size:,} positions would take "
                f"over {MOST_CACHE_BYTES >> 30} GiB"
            )
        parameters = sum(array.size for array in weights.values())
        self.precision = choose_precision(parameters) if precision == "auto" else precision
        self.threads = threads or choose_threads(parameters)
        self.context_size = config.context_size
        self.vocab_size = len(weights["logits.weight"])
        self.rows = rows
        self._library = decoder_library()
        self._kept: list[object] = []  # what the C side points to
        model = self._model(config, weights)
        self._handle = self._library.hornbook_open(ctypes.byref(model))
        if not self._handle:
            raise MemoryError("no memory for a decoder")
        weakref.finalize(self, self._library.hornbook_close, self._handle)

    def read(
        self, tokens_RT: Sequence[Sequence[int]], rows: Sequence[int], start: int = 0
    ) -> Floats:
        """Read on from position `start` of each row: the logits after the last token, [R,V].

        The positions before `start` are those read by earlier calls; 0 begins a text anew.
        Raises: IndexError for a token, row or position outside the model.
        """
        return self._read(tokens_RT, rows, start, every=False)

    def read_all(self, tokens_RT: Sequence[Sequence[int]] | NDArray[Any]) -> Floats:
        """Read texts from their beginning: the logits after each token, [R,T,V]."""
        return self._read(tokens_RT, range(len(tokens_RT)), 0, every=True)

    def _read(
        self, tokens_RT: Sequence[Sequence[int]] | NDArray[Any], rows: Sequence[int], start: int,
        *, every: bool,
    ) -> Floats:  # fmt: skip
        token_array = np.array(tokens_RT, np.int32)
        row_array = np.array(rows, np.int32)
        R, T = token_array.shape
        if len(row_array) != R:
            raise IndexError(f"expected {R} rows' numbers, got {len(row_array)}")
        logits = np.empty((R, T, self.vocab_size) if every else (R, self.vocab_size), np.float32)
        refused = self._library.hornbook_read(
            self._handle, token_array.ctypes.data, row_array.ctypes.data,
            R, T, start, every, logits.ctypes.data,
        )  # fmt: skip
        if refused:
            raise IndexError(
                f"expected tokens below {self.vocab_size}, rows below {self.rows} and positions "
                f"below {self.context_size}; got {T} tokens from position {start} of rows {rows}"
            )
        return logits

    def _model(self, config: ModelConfig, weights: Weights) -> Model:
        C, H, D = config.n_embd, config.n_head, config.head_width
        padded_C, padded_D = up_to(C, PANEL), up_to(D, 16)

        def of_heads(weight_CI: Floats) -> Floats:
            """Each head's outputs, padded."""
            return pad(weight_CI.reshape(H, D, -1), H, padded_D, C).reshape(H * padded_D, C)

        layers = []
        for number in range(config.n_layer):
            part = {
                name.split(".", 2)[2].removesuffix(".weight"): array
                for name, array in weights.items()
                if name.startswith(f"blocks.{number}.")
            }
            qkv = [of_heads(part[f"attention.{name}"]) for name in ("query", "key", "value")]
            output = of_heads(part["attention.output"].T).T
            layers.append(
                Layer(
                    self._pointer(pad(part["attention_norm"], padded_C)),
                    self._pointer(pad(part["mlp_norm"], padded_C)),
                    self._pointer(pad(part["attention.query_norm"], padded_D)),
                    self._pointer(pad(part["attention.key_norm"], padded_D)),
                    self._matrix(np.concatenate(qkv)),
                    self._matrix(output),
                    *(self._matrix(part[f"mlp.{name}"]) for name in ("gate", "up", "down")),
                )
            )
        layer_array = (Layer * config.n_layer)(*layers)
        self._kept.append(layer_array)
        cosines, sines = rotary_angles(config.context_size, D)
        numbers = self.rows * cache_bytes(config) // 8
        return Model(
            self.vocab_size, config.context_size, config.n_layer, H, C, D, config.block_size,
            KINDS[self.precision], self.threads, self.rows, EPSILON,
            self._pointer(pad(weights["embedding.weight"], self.vocab_size, padded_C)),
            self._pointer(cosines), self._pointer(sines),
            self._pointer(pad(weights["norm.weight"], padded_C)),
            ctypes.addressof(layer_array),
            self._matrix(weights["logits.weight"]),
            self._zeros(numbers), self._zeros(numbers),
        )  # fmt: skip

    def _matrix(self, weight_OI: Floats) -> Matrix:
        """A matrix cut into panels in this decoder's precision; see decoder.c, `unpack`."""
        O, I = weight_OI.shape  # noqa: E741
        P = up_to(O, PANEL) // PANEL
        packed, scale_O = weight_OI, None
        if self.precision == "int8":
            packed, scale_O = quantised(weight_OI)
        panels_PIO = np.ascontiguousarray(
            pad(packed, P * PANEL, I).reshape(P, PANEL, I).transpose(0, 2, 1)
        )
        if self.precision == "bfloat16":
            panels_PIO = bfloat16(panels_PIO).reshape(P, I, 2, 2, 16).swapaxes(-1, -2)
        elif self.precision == "int8":
            panels_PIO = panels_PIO.reshape(P, I, 4, 16).swapaxes(-1, -2)
        scales = None if scale_O is None else self._pointer(pad(scale_O, P * PANEL))
        return Matrix(self._pointer(panels_PIO), scales, I, P)

    def _pointer(self, array: NDArray[Any]) -> int:
        """The address of an aligned copy that lives as long as this decoder."""
        copy = aligned(array)
        self._kept.append(copy)
        return copy.ctypes.data

    def _zeros(self, count: int) -> int:
        """The address of that many zeros, which cost no memory until they are written."""
        room = np.zeros(count, np.float32)
        self._kept.append(room)
        return room.ctypes.data


def rotary_angles(positions: int, head_width: int) -> tuple[Floats, Floats]:
    """`models.gpt.rotary_angles` in numpy, without its repeated half: two of [positions, D/2]."""
    exponents = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    frequencies = np.float32(ROTARY_BASE) ** -exponents
    angles = np.outer(np.arange(positions, dtype=np.float32), frequencies)
    return np.cos(angles), np.sin(angles)


def check_shapes(config: ModelConfig, weights: Weights) -> None:
    """See that the weights are this model's.

    Raises: CheckpointError naming the first that is missing or of another shape.
    """
    C, D, F = config.n_embd, config.head_width, config.mlp_width
    V = len(weights.get("embedding.weight", ()))
    shapes = {
        "embedding": (V, C), "logits": (V, C), "norm": (C,),
        "attention_norm": (C,), "mlp_norm": (C,), "query_norm": (D,), "key_norm": (D,),
        "query": (C, C), "key": (C, C), "value": (C, C), "output": (C, C),
        "gate": (F, C), "up": (F, C), "down": (C, F),
    }  # fmt: skip
    names = weight_names(config.n_layer)
    for name in names:
        expected, array = shapes[name.split(".")[-2]], weights.get(name)
        if array is None or array.shape != expected or array.dtype != np.float32 or V == 0:
            found = "none" if array is None else f"{array.dtype} {list(array.shape)}"
            raise CheckpointError(
                f"the weights do not fit config.toml: {name}: expected float32 {list(expected)}, "
                f"found {found}"
            )
    if strangers := sorted(weights.keys() - set(names)):
        raise CheckpointError(f"the weights do not fit config.toml: unexpected {strangers[0]}")
