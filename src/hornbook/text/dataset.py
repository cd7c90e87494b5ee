"""From a text to token arrays: the split into training and validation parts, the tokenizer."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from hornbook.config import DataConfig
from hornbook.errors import DataError, display_path, reason
from hornbook.storage import cache
from hornbook.text.arrays import Chunks, Tokens, open_arrays, write_arrays
from hornbook.text.corpus import Corpus
from hornbook.text.tokenizer import Tokenizer, build_tokenizer, load_tokenizer

FORMAT = 2
PARTS = ("train", "validation")
# Without a writable cache, arrays of texts up to this length stay in memory.
MAX_CHARACTERS_IN_MEMORY = 1 << 28


@dataclass(frozen=True)
class Dataset:
    """A tokenised corpus in two parts; the arrays are memory-mapped from the cache."""

    tokenizer: Tokenizer
    train: Tokens
    validation: Tokens
    fingerprint: str


def split_place(characters: int, validation_fraction: float = 0.1) -> int:
    """How many characters of a text are the training part; the rest is the validation part.

    Raises: DataError if a part would be empty.
    """
    # The lecture's int(0.9 * len(data)), to the character.
    cut = int((1 - validation_fraction) * characters)
    if not 0 < cut < characters:
        raise DataError(
            f"the text has {characters} characters, too few to split into training and validation"
        )
    return cut


def split_text(text: str, validation_fraction: float = 0.1) -> tuple[str, str]:
    """The training part of a text and its validation part.

    Raises: DataError if a part would be empty.
    """
    cut = split_place(len(text), validation_fraction)
    return text[:cut], text[cut:]


def prepare(corpus: Corpus, config: DataConfig, tokenizer: Tokenizer | None = None) -> Dataset:
    """Tokenise a corpus, or open its token arrays from the cache.

    Without a given tokenizer, the characters come from the whole text, as in the lecture, and BPE
    learns its merges from the training part only. The text is read in chunks, so it can be larger
    than memory. After a kill the next call continues where the last one stopped.
    Raises: DataError if the text cannot be split; UnknownCharacterError from a given tokenizer.
    """
    cut = split_place(corpus.characters, config.validation_fraction)
    tokenizer = tokenizer or learned_tokenizer(corpus, config, cut)
    fingerprint = fingerprint_of(
        FORMAT, corpus.sha256, config.validation_fraction, tokenizer.to_json()
    )
    folder = cache.cache_folder() / "tokens" / fingerprint[:32]
    arrays = open_arrays(folder, PARTS, tokenizer.vocab_size) or encode(
        corpus, tokenizer, cut, folder
    )
    train, validation = arrays
    return Dataset(tokenizer, train, validation, fingerprint)


def encode(corpus: Corpus, tokenizer: Tokenizer, cut: int, folder: Path) -> list[Tokens]:
    """Both parts of a corpus as token arrays, in the cache if it is writable."""
    reader = Reader(corpus)

    def part(start: int, stop: int) -> Chunks:
        return lambda done: reader.between(start + done, stop)

    parts = {"train": part(0, cut), "validation": part(cut, corpus.characters)}
    try:
        return write_arrays(folder, parts, tokenizer)
    except OSError as error:
        if corpus.characters > MAX_CHARACTERS_IN_MEMORY:
            raise DataError(
                f"cannot save the tokens of {corpus.source} in {display_path(folder.parent)} "
                f"({reason(error)}): set HORNBOOK_CACHE_DIR to a folder with room for them"
            ) from None
    pieces = ([ids for _, ids in tokenizer.encode_chunks(text(0))] for text in parts.values())
    return [np.concatenate(arrays) for arrays in pieces]


def learned_tokenizer(corpus: Corpus, config: DataConfig, cut: int) -> Tokenizer:
    """The tokenizer that the settings ask for, learned from the corpus or read from the cache."""
    kind, size = config.tokenizer, config.bpe_vocab_size
    if kind == "byte":
        return build_tokenizer(kind, "")
    settings = (cut, size, version("tokenizers")) if kind == "bpe" else ()
    fingerprint = fingerprint_of(FORMAT, corpus.sha256, kind, *settings)
    folder = cache.cache_folder() / "tokenizers" / fingerprint[:32]
    if cache.is_sound(folder):
        with suppress(DataError):
            return load_tokenizer(folder / "tokenizer.json")
    stop = cut if kind == "bpe" else corpus.characters
    tokenizer = build_tokenizer(kind, Reader(corpus).between(0, stop), vocab_size=size)
    with suppress(OSError), cache.fill(folder) as place:
        (place / "tokenizer.json").write_bytes(tokenizer.to_json().encode())
    return tokenizer


def fingerprint_of(*facts: object) -> str:
    """A hash of facts, which are plain JSON values."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class Reader:
    """Reads parts of a corpus in chunks; consecutive parts take one pass over the text."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.chunks = corpus.chunks()
        self.offset = 0
        self.buffer = ""

    def between(self, start: int, stop: int) -> Iterator[str]:
        """The characters with offsets from `start` up to `stop`, exclusive.

        Raises: DataError if the text ends before `stop`.
        """
        if start < self.offset:
            self.chunks, self.offset, self.buffer = self.corpus.chunks(), 0, ""
        while self.offset < stop:
            self.buffer = self.buffer or next(self.chunks, "")
            if not self.buffer:
                raise DataError(
                    f"{self.corpus.source} now ends at character {self.offset:,}, it had "
                    f"{self.corpus.characters:,}: start again"
                )
            wanted = self.buffer[max(0, start - self.offset) : stop - self.offset]
            read = min(len(self.buffer), stop - self.offset)
            self.buffer, self.offset = self.buffer[read:], self.offset + read
            if wanted:
                yield wanted


def check_length(tokens: Tokens, block_size: int, part: str) -> None:
    """Check that a part has room for one block and the token after it.

    Raises: DataError with the number of tokens that there are and that are needed.
    """
    if len(tokens) <= block_size:
        if block_size == 1:
            raise DataError(
                f"the {part} text has {len(tokens)} token{'s' * (len(tokens) != 1)}, but at least "
                "2 are needed: each token but the first is predicted; use a longer text"
            )
        raise DataError(
            f"the {part} part of the text has {len(tokens)} tokens, but block_size = {block_size} "
            f"needs at least {block_size + 1}; use a longer text or a smaller block "
            f"(--set block_size={max(1, (len(tokens) - 1) // 2)})"
        )
