"""One token for each character."""

import sys
from collections.abc import Iterable
from typing import Self

import numpy as np

from hornbook.errors import DataError
from hornbook.language import msg
from hornbook.text.tokenizer.base import IdArray, Tokenizer
from hornbook.text.tokenizer.document import to_json
from hornbook.text.tokenizer.unknown import check_no_surrogates

# Long enough to hide the cost of the loop, short enough for the processor's cache.
_CHUNK_CHARACTERS = 1 << 18


class CharTokenizer(Tokenizer):
    """One id for each distinct character, in order of code point, as in Karpathy's lecture.

    ``chars`` is the vocabulary as one string; ``stoi`` maps characters to ids, ``itos`` ids back.
    Raises: DataError for an empty string or half a surrogate pair.
    """

    kind = "char"

    def __init__(self, chars: str) -> None:
        self.chars: str = "".join(sorted(set(chars)))
        if not self.chars:
            raise DataError(msg("expected a text to take the characters from, got an empty one"))
        check_no_surrogates(self.chars)
        self.vocab_size = len(self.chars)
        self.stoi = {c: i for i, c in enumerate(self.chars)}
        self.itos = dict(enumerate(self.chars))
        # Ids by code point. vocab_size marks a code point without an id: the gaps, and the last
        # entry, to which take() clips every greater code point.
        codes = [ord(c) for c in self.chars]
        self._ids_by_code = np.full(codes[-1] + 2, self.vocab_size, np.uint32)
        self._ids_by_code[codes] = np.arange(self.vocab_size, dtype=np.uint32)
        # Ids follow the order of code points, so an ASCII character's id is below 128 and
        # bytes.translate can map it, several times as fast as a numpy look-up.
        self._ascii = "".join(c for c in self.chars if c.isascii()).encode()
        self._ascii_ids = bytes.maketrans(self._ascii, bytes(range(len(self._ascii))))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The tokenizer of the characters of a text. Raises: DataError if there are none."""
        return cls.from_chunks(
            text[start : start + _CHUNK_CHARACTERS]
            for start in range(0, len(text), _CHUNK_CHARACTERS)
        )

    @classmethod
    def from_chunks(cls, chunks: Iterable[str]) -> Self:
        """The tokenizer of the characters of all chunks. Raises: DataError if there are none."""
        ascii_bytes = b""
        seen = np.zeros(sys.maxunicode + 1, np.bool_)
        for chunk in chunks:
            # Deleting the known characters first is ten times as fast as a set of all.
            if chunk.isascii():
                ascii_bytes += bytes(set(chunk.encode().translate(None, ascii_bytes)))
            else:
                codes = np.frombuffer(chunk.encode("utf-32-le", "surrogatepass"), "<u4")
                known = seen.take(codes, mode="clip")  # a third of the time of setting them all
                if not known.all():
                    seen[codes[~known]] = True
        return cls(ascii_bytes.decode() + "".join(map(chr, np.flatnonzero(seen).tolist())))

    @classmethod
    def from_vocab(cls, vocab: dict[str, int]) -> Self:
        """The tokenizer of a saved vocabulary. Raises: DataError if it is not one of characters."""
        if not vocab or any(len(token) != 1 for token in vocab):
            raise DataError(msg("expected tokens of one character each"))
        tokenizer = cls("".join(vocab))
        if tokenizer.stoi != vocab:
            raise DataError(msg("expected ids in order of code point"))
        return tokenizer

    def encode_array(self, text: str) -> IdArray:
        ids = np.empty(len(text), np.min_scalar_type(self.vocab_size - 1))
        for start in range(0, len(text), _CHUNK_CHARACTERS):
            part = text[start : start + _CHUNK_CHARACTERS]
            if part.isascii():
                ascii_bytes = part.encode()
                if ascii_bytes.translate(None, self._ascii):
                    raise self._unknown_character(text)
                found = np.frombuffer(ascii_bytes.translate(self._ascii_ids), np.uint8)
            else:
                codes = np.frombuffer(part.encode("utf-32-le", "surrogatepass"), "<u4")
                found = self._ids_by_code.take(codes, mode="clip")
                if found.max() == self.vocab_size:
                    raise self._unknown_character(text)
            ids[start : start + len(part)] = found
        return ids

    def token_bytes(self) -> list[bytes]:
        return [c.encode() for c in self.chars]

    def to_json(self) -> str:
        return to_json("char", {"vocab": self.stoi})

    def knows(self, character: str) -> bool:
        return character in self.stoi
