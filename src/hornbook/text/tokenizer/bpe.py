"""Tokens of bytes: the 256 values of a byte, or byte-pair encoding (BPE) over them."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from hornbook.errors import ConfigError, DataError
from hornbook.language import msg
from hornbook.text.tokenizer.base import IdArray, Tokenizer
from hornbook.text.tokenizer.document import BYTE_ALPHABET, to_json
from hornbook.text.tokenizer.unknown import check_no_surrogates

if TYPE_CHECKING:
    import tokenizers

CHUNK_CHARACTERS = 1 << 14
BATCH_CHARACTERS = 1 << 20  # enough chunks for many cores; the library takes 150 B a token
_WORD_END = re.compile(r"(?<=\S)(?=[ \n])")


class ByteTokenizer(Tokenizer):
    """One id for each value of a byte of UTF-8; every text can be encoded."""

    kind = "byte"
    vocab_size = 256

    def encode_array(self, text: str) -> IdArray:
        try:
            return np.frombuffer(text.encode(), np.uint8).copy()
        except UnicodeEncodeError:
            raise self._unknown_character(text) from None

    def token_bytes(self) -> list[bytes]:
        return [bytes([i]) for i in range(256)]

    def to_json(self) -> str:
        return to_json("byte", {"vocab": BYTE_ALPHABET, "merges": []})


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding, as in GPT-2; every text can be encoded.

    ``vocab`` maps tokens, written in the byte-level alphabet, to ids; ``merges`` are in order.
    Raises: DataError if vocabulary and merges do not fit together.
    """

    kind = "bpe"

    def __init__(self, vocab: dict[str, int], merges: Sequence[tuple[str, str]]) -> None:
        # Otherwise the library panics, or allocates memory up to the greatest id.
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise DataError(msg("expected a vocabulary with the ids 0, 1, 2, ... each once"))
        if not vocab.keys() >= BYTE_ALPHABET.keys():
            raise DataError(msg("expected a vocabulary with all 256 bytes"))
        if any(not token or not BYTE_ALPHABET.keys() >= set(token) for token in vocab):
            raise DataError(msg("expected tokens written in the byte-level alphabet"))
        if any(a not in vocab or b not in vocab or a + b not in vocab for a, b in merges):
            raise DataError(msg("expected merges of two tokens of the vocabulary into a third"))
        # The vocabulary limits the number of distinct merges; repeated ones would cost memory.
        if len(set(map(tuple, merges))) < len(merges):
            raise DataError(msg("expected each merge once"))
        self.vocab_size = len(vocab)
        self._vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
        self._merges = [list(pair) for pair in merges]

    @classmethod
    def train(cls, text: str | Iterable[str], vocab_size: int) -> Self:
        """Learn merges from a text or its chunks: ``vocab_size`` tokens, or fewer if pairs run out.

        Raises: ConfigError if ``vocab_size`` is below 256, the number of bytes.
        """
        if vocab_size < 256:
            raise ConfigError(
                msg(
                    "expected a vocab_size of at least 256 (bytes), got {vocab_size}",
                    vocab_size=vocab_size,
                )
            )
        chunks = _without_surrogates([text] if isinstance(text, str) else text)
        from tokenizers import Tokenizer as LibraryTokenizer
        from tokenizers import models, trainers

        # From our own JSON, so that training splits words in the way that encoding does.
        library = LibraryTokenizer.from_str(ByteTokenizer().to_json())
        library.model, alphabet = models.BPE(), list(BYTE_ALPHABET)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, min_frequency=2, show_progress=False, initial_alphabet=alphabet
        )
        # The separator of documents stays a token of its own.
        pieces = split_after_words(chunks, CHUNK_CHARACTERS)
        words = (part for piece in pieces for part in piece.split("\x1e"))
        library.train_from_iterator(words, trainer)
        learned = json.loads(library.to_str())["model"]
        return cls(learned["vocab"], [(a, b) for a, b in learned["merges"]])

    def encode_array(self, text: str) -> IdArray:
        if not is_encodable(text):
            raise self._unknown_character(text)
        dtype = np.min_scalar_type(self.vocab_size - 1)
        pieces = list(split_after_words([text], CHUNK_CHARACTERS))
        encodings = self._library.encode_batch_fast(pieces, add_special_tokens=False)
        parts = [np.array(encoding.ids, dtype) for encoding in encodings]
        return np.concatenate([np.empty(0, dtype), *parts])

    def _rechunk(self, chunks: Iterable[str]) -> Iterable[str]:
        return split_after_words(chunks, BATCH_CHARACTERS)

    def token_bytes(self) -> list[bytes]:
        return [bytes(BYTE_ALPHABET[c] for c in token) for token in self._vocab]

    def to_json(self) -> str:
        return to_json("bpe", {"vocab": self._vocab, "merges": self._merges})

    @cached_property
    def _library(self) -> "tokenizers.Tokenizer":
        from tokenizers import Tokenizer as LibraryTokenizer

        return LibraryTokenizer.from_str(self.to_json())


def split_after_words(
    chunks: Iterable[str], size: int, word_end: re.Pattern[str] = _WORD_END
) -> Iterator[str]:
    """Re-chunk a text at places where byte-level pre-tokenisation always splits: after a word.

    GPT-2's pattern never looks back, and a match that ends in a non-space ends there when white
    space follows. So the ids equal those of the whole text, at a fraction of the memory and on all
    cores. Pieces have ``size`` characters or a little more; the last can have any number.
    ``word_end`` says where another pattern always splits.
    """
    rest, searched = "", 0
    for chunk in chunks:
        rest += chunk
        start = 0
        while cut := word_end.search(rest, max(start + size, searched)):
            yield rest[start : cut.start()]
            start = cut.start()
        rest = rest[start:]
        # Search a long line without a space once, not again with each of its chunks.
        searched = len(rest) if len(rest) > size else 0
    yield rest


def _without_surrogates(chunks: Iterable[str]) -> Iterator[str]:
    for chunk in chunks:
        if not is_encodable(chunk):
            check_no_surrogates(chunk)
        yield chunk


def is_encodable(text: str) -> bool:
    """Whether a text has no half of a surrogate pair; encoding is the fastest test."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
