"""A context-mixing predictor of tokens: its arrays, learning, and readers of texts.

kernels/mixer.c has the method. Shapes in names: V vocabulary, N = V - 1 nodes of the code tree, T
tokens.
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hornbook.errors import CheckpointError, DataError
from hornbook.kernels.mixer import MOST_TOKENS, Model, mixer_library
from hornbook.language import msg
from hornbook.models.code_tree import DEEPEST, CodeTree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hornbook.text.tokenizer import Tokenizer

Ids: TypeAlias = NDArray[np.integer[Any]]
Ints: TypeAlias = NDArray[np.int32]
Floats: TypeAlias = NDArray[np.float32]

# What a token is to the words of a text; see mixer.c's `kind`.
OTHER, LETTERS, LINE_END, NEW_WORD = range(4)
# Four buckets of 16 bytes a line, and twice as many lines as tokens, up to 512 MiB: on python-docs
# half as many are 0.006 nats worse, twice as many 0.002 better.
FEWEST_BITS, MOST_BITS = 10, 23
LINE_BYTES = 64
FORMAT = 3


class OtherFormatError(CheckpointError):
    """A mixer that another version of hornbook learned, with other contexts."""


def table_bits(n_tokens: int) -> tuple[int, int]:
    """The binary logarithms of how many lines and counters are kept of so many tokens."""
    bits = (n_tokens - 1).bit_length()
    line_bits = min(MOST_BITS, max(FEWEST_BITS, bits + 1))
    return line_bits, min(MOST_BITS, max(16, bits))


@dataclass(frozen=True)
class Mixer:
    """What was learned of a text: tables and weights, and the text itself, where matches are found.

    `lines` are tables of buckets, counters and places; `weights` are all that is mixed and
    corrected with. Each prediction is made before its token is learned.
    """

    tree: CodeTree
    folded: Ints
    kind: Ints
    shortest: tuple[int, int]
    line_bits: int
    counter_bits: int
    text: Ints
    lines: NDArray[np.uint8]
    weights: Floats

    @classmethod
    def begin(cls, tokenizer: Tokenizer, tokens: Ids) -> Self:
        """A mixer that has learned nothing, with room and a code tree for these tokens.

        Raises: NativeUnavailableError without a C compiler; DataError for too many tokens.
        """
        if len(tokens) > MOST_TOKENS:
            raise DataError(
                msg(
                    "{number:,} tokens: a mixer learns {most_tokens:,} at most",
                    number=len(tokens),
                    most_tokens=MOST_TOKENS,
                )
            )
        V = tokenizer.vocab_size
        line_bits, counter_bits = table_bits(len(tokens))
        empty = cls(
            CodeTree.of_tokens(np.bincount(tokens, minlength=V), tokenizer.token_bytes()),
            *word_shapes(tokenizer),
            # Letters, or the syllables and words of a larger vocabulary.
            (5, 11) if V < 512 else (3, 6),
            line_bits,
            counter_bits,
            np.empty(0, np.int32),
            np.empty(0, np.uint8),
            np.empty(0, np.float32),
        )  # fmt: skip
        library, model = mixer_library(), empty.described()
        made = replace(
            empty,
            lines=aligned_bytes(LINE_BYTES * library.hornbook_mixer_lines(model)),
            weights=np.empty(library.hornbook_mixer_floats(model), np.float32),
        )
        library.hornbook_mixer_begin(made.described())
        return made

    @property
    def vocab_size(self) -> int:
        """How many tokens there are to predict."""
        return len(self.folded)

    @property
    def squares(self) -> slice:
        """Where `weights` has the sums of squared gradients."""
        begin = mixer_library().hornbook_mixer_squares(self.described())
        return slice(begin, 2 * begin)

    @property
    def summary(self) -> str:
        """What was learned in one line."""
        return msg(
            "a mixer of {tokens:,} tokens in {size:,} MiB",
            tokens=len(self.text),
            size=len(self.lines) >> 20,
        )

    def described(self) -> Model:
        """The arrays for mixer.c, which reads them in place: they must outlive what is returned."""
        tree = self.tree
        arrays = (
            self.lines, self.weights, self.text, tree.child, tree.bucket, tree.slot,
            tree.parent, tree.depth, tree.first, tree.path, self.folded, self.kind,
        )  # fmt: skip
        pointers = (array.ctypes.data for array in arrays)
        shortest = (ctypes.c_int32 * 2)(*self.shortest)
        sizes = (self.vocab_size, len(self.text), self.line_bits, self.counter_bits)
        return Model(*sizes, shortest, *pointers)

    def reader(self) -> Reader:
        """A reader of a new text; what it learns is its own."""
        return Reader(self, direct=False)

    def learner(self) -> Reader:
        """A reader that goes on after the text learned so far, in these very arrays."""
        return Reader(self, direct=True)

    def copy(self) -> Self:
        """A mixer that may learn without changing this one."""
        return replace(self, lines=aligned_copy(self.lines), weights=self.weights.copy())

    def join_network(self) -> None:
        """Give a network's probabilities their first weights, before they are first read."""
        mixer_library().hornbook_mixer_join(self.described())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything, as flat arrays by name."""
        sizes = [FORMAT, self.line_bits, self.counter_bits, *self.shortest]
        return {
            "sizes": np.array(sizes, np.int64),
            "children": self.tree.child.astype(np.int64).ravel(),
            "folded": self.folded.astype(np.int64),
            "kinds": self.kind.astype(np.int64),
            "text": self.text.view(np.uint8),
            "lines": self.lines,
            "weights": self.weights,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The mixer whose `arrays` these are.

        Raises: OtherFormatError for a mixer of another version; CheckpointError for any others.
        """
        try:
            sizes = arrays["sizes"].tolist()
            form, line_bits, counter_bits, *shortest = map(int, sizes)
            folded_V, kind_V = (arrays[name].astype(np.int32) for name in ("folded", "kinds"))
            V = len(folded_V)
            tree = CodeTree.of_children(arrays["children"].astype(np.int32).reshape(2, V - 1))
            text = arrays["text"].view(np.int32)
            made = cls(
                tree, folded_V, kind_V, (shortest[0], shortest[1]), line_bits, counter_bits, text,
                arrays["lines"], arrays["weights"],
            )  # fmt: skip
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise CheckpointError(msg("not a mixer: {error}", error=error)) from None
        if form != FORMAT:
            raise OtherFormatError(
                msg(
                    "not a mixer of this version of hornbook: expected format {format}, got "
                    "{form}; train anew to have one",
                    format=FORMAT,
                    form=form,
                )
            )
        if not (
            len(shortest) == 2
            and all(1 <= each <= 12 for each in shortest)
            and FEWEST_BITS <= line_bits <= MOST_BITS
            and 16 <= counter_bits <= MOST_BITS
            and len(kind_V) == V
            and (kind_V.min(), kind_V.max()) >= (OTHER, OTHER)
            and kind_V.max() <= NEW_WORD
            and 0 <= folded_V.min() <= folded_V.max() < V
            and (not len(text) or 0 <= text.min() <= text.max() < V)
            and int(np.diff(tree.first).max()) <= DEEPEST
        ):
            raise CheckpointError(msg("not a mixer of this version: its sizes are out of range"))
        library, model = mixer_library(), made.described()
        wanted = (
            LINE_BYTES * library.hornbook_mixer_lines(model),
            library.hornbook_mixer_floats(model),
        )
        if (made.lines.nbytes, made.weights.size) != wanted or not np.isfinite(made.weights).all():
            raise CheckpointError(msg("not a mixer: its tables are cut short or not finite"))
        return made


class Reader:
    """One text in progress: it predicts each token from those before it, then learns it.

    Not thread-safe.
    """

    def __init__(self, mixer: Mixer, *, direct: bool) -> None:
        self.mixer = mixer  # its arrays must live as long as the reader
        self._library = mixer_library()
        self._handle = self._library.hornbook_mixer_open(mixer.described(), direct)
        if not self._handle:
            raise MemoryError("no memory for a reader")
        weakref.finalize(self, self._library.hornbook_mixer_close, self._handle)

    def read(self, tokens: Ids, logits_TV: Floats | None = None) -> NDArray[np.float64]:
        """-ln p of each token, in nats: [T] -> [T]. `logits_TV` are a network's, before each token.

        Raises: IndexError for a token outside the vocabulary.
        """
        ids = np.ascontiguousarray(tokens, np.int32)
        nats_T = np.empty(len(ids))
        logits = floats_of(logits_TV, (len(ids), self.mixer.vocab_size))
        refused = self._library.hornbook_mixer_read(
            self._handle, ids.ctypes.data, len(ids), address(logits), nats_T.ctypes.data
        )
        if refused:
            raise IndexError(f"expected tokens below {self.mixer.vocab_size}")
        return nats_T

    def log_probs(self, logits_V: Floats | None = None) -> Floats:
        """The logarithms of all probabilities of the next token, [V]; they sum to 1."""
        log_p_V = np.empty(self.mixer.vocab_size, np.float32)
        logits = floats_of(logits_V, (self.mixer.vocab_size,))
        self._library.hornbook_mixer_distribution(
            self._handle, address(logits), log_p_V.ctypes.data
        )
        return log_p_V

    def reset(self) -> None:
        """Begin a new text: what was learned from the last one is forgotten."""
        self._library.hornbook_mixer_reset(self._handle)


def floats_of(array: NDArray[Any] | None, shape: tuple[int, ...]) -> Floats | None:
    """The array as C reads it. Raises: ValueError for another shape."""
    if array is None:
        return None
    if array.shape != shape:
        raise ValueError(f"expected logits of shape {shape}, got {array.shape}")
    return np.ascontiguousarray(array, np.float32)


def address(array: NDArray[Any] | None) -> int | None:
    """Where C finds an array; None for none."""
    return None if array is None else array.ctypes.data


def aligned_bytes(size: int) -> NDArray[np.uint8]:
    """So many bytes, not initialised, that start on a cache line."""
    room = np.empty(size + LINE_BYTES, np.uint8)
    start = -room.ctypes.data % LINE_BYTES
    return room[start : start + size]


def aligned_copy(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy that starts on a cache line, and may be written."""
    made = aligned_bytes(len(array))
    made[...] = array
    return made


def word_shapes(tokenizer: Tokenizer) -> tuple[Ints, Ints]:
    """For each token: the one that stands for its upper and lower case, and its kind, [V] each."""
    spelled = tokenizer.token_bytes()
    number = {token: i for i, token in enumerate(spelled)}
    folded = [number.get(lower(token), i) for i, token in enumerate(spelled)]
    return np.array(folded, np.int32), np.array([kind(token) for token in spelled], np.int32)


def lower(token: bytes) -> bytes:
    """A token in lower case."""
    return token.decode("utf-8", "surrogateescape").lower().encode("utf-8", "surrogateescape")


def kind(token: bytes) -> int:
    """What a token is to the words of a text. Pieces of a character count as letters."""
    text = token.decode("utf-8", "surrogateescape")
    if text.endswith("\n"):
        return LINE_END
    letters = text.removeprefix(" ")
    if letters and all(each.isalnum() or each in "'_" or each >= "\udc80" for each in letters):
        return LETTERS if letters == text else NEW_WORD
    return OTHER
