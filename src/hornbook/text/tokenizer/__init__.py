"""Text to token ids and back: characters, bytes, or byte-pair encoding.

Each kind is saved as a `tokenizer.json` that the tokenizers library opens, with the same ids and
the same decoding there. Characters and bytes are read and used without that library.
"""

import os
from collections.abc import Iterable
from typing import Final

from hornbook.errors import DataError, reason
from hornbook.language import msg
from hornbook.storage.files import read_json
from hornbook.text.tokenizer.base import Tokenizer as Tokenizer
from hornbook.text.tokenizer.base import expect_one_of
from hornbook.text.tokenizer.bpe import BPETokenizer as BPETokenizer
from hornbook.text.tokenizer.bpe import ByteTokenizer as ByteTokenizer
from hornbook.text.tokenizer.characters import CharTokenizer as CharTokenizer
from hornbook.text.tokenizer.document import BYTE_ALPHABET, from_document
from hornbook.text.tokenizer.pretrained import PretrainedTokenizer as PretrainedTokenizer

KINDS: Final = ("char", "byte", "bpe")


def build_tokenizer(kind: str, text: str | Iterable[str], *, vocab_size: int = 1024) -> Tokenizer:
    """The tokenizer of a kind for a text, or its chunks; only "bpe" reads ``vocab_size``.

    Raises: ConfigError for another kind or a vocabulary below 256; DataError for an empty text.
    """
    expect_one_of(kind, KINDS, "a tokenizer")
    if kind == "char":
        return CharTokenizer.from_chunks([text] if isinstance(text, str) else text)
    return ByteTokenizer() if kind == "byte" else BPETokenizer.train(text, vocab_size)


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Read a run's ``tokenizer.json``: one of hornbook's own, or a pre-trained model's.

    Only the latter have added tokens. Raises: DataError.
    """
    try:
        document = read_json(path)
    except OSError as error:
        raise DataError(
            msg("cannot read the tokenizer {path}: {why}", path=path, why=reason(error))
        ) from None
    except ValueError:
        raise DataError(
            msg("{path} is not JSON, so it is not a tokenizer.json", path=path)
        ) from None
    try:
        if isinstance(document, dict) and document.get("added_tokens"):
            return PretrainedTokenizer(document)
        vocab, merges = from_document(document)
        if merges is None:
            return CharTokenizer.from_vocab(vocab)
        is_byte = vocab == BYTE_ALPHABET and not merges
        return ByteTokenizer() if is_byte else BPETokenizer(vocab, merges)
    except DataError as error:
        raise DataError(
            msg("{path} is not a tokenizer that hornbook knows: {error}", path=path, error=error)
        ) from None
