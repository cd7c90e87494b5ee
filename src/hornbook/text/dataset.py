"""From a text to token arrays: the split into training and validation, and the tokenizer."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from hornbook.config import DataConfig
from hornbook.errors import DataError, reason, shown
from hornbook.storage import cache
from hornbook.text.arrays import Chunks, Tokens, open_arrays, write_arrays
from hornbook.text.corpus import Corpus
from hornbook.text.tokenizer import Tokenizer, build_tokenizer, load_tokenizer

FORMAT = 2
PARTS = ("train", "validation")
# Without a cache the arrays of a text up to this long stay in memory.
MOST_CHARACTERS_IN_MEMORY = 1 << 28


@dataclass(frozen=True)
class Dataset:
    """A corpus cut in two and tokenised; the arrays are memory-mapped from the cache."""

    tokenizer: Tokenizer
    train: Tokens
    validation: Tokens
    fingerprint: str


def split_place(characters: int, validation_fraction: float = 0.1) -> int:
    """How many characters of a text are learned from; the rest is to be tested on.

    Raises: DataError when either part would be empty.
    """
    # The lecture's int(0.9 * len(data)), to the character.
    cut = int((1 - validation_fraction) * characters)
    if not 0 < cut < characters:
        raise DataError(
            f"the text has {characters} characters, too few to split into training and validation"
        )
    return cut


def split_text(text: str, validation_fraction: float = 0.1) -> tuple[str, str]:
    """The first part to learn from and the rest to be tested on, cut between two characters.

    Raises: DataError when either part would be empty.
    """
    cut = split_place(len(text), validation_fraction)
    return text[:cut], text[cut:]


def prepare(corpus: Corpus, config: DataConfig, tokenizer: Tokenizer | None = None) -> Dataset:
    """Tokenise a corpus, or find it tokenised in the cache.

    A tokenizer given is used as it is; otherwise characters come from the whole text, as in the
    lecture, and BPE learns its merges from the training part alone. The text is read in chunks, so
    that it may be larger than memory; who is killed on the way goes on from there the next time.
    Raises: DataError when the text cannot be split; UnknownCharacterError from a given tokenizer.
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
    """Both parts of a corpus as token arrays, in the cache if it can be written."""

    reader = Reader(corpus)

    def part(start: int, stop: int) -> Chunks:
        return lambda done: reader.between(start + done, stop)

    parts = {"train": part(0, cut), "validation": part(cut, corpus.characters)}
    try:
        return write_arrays(folder, parts, tokenizer)
    except OSError as error:
        if corpus.characters > MOST_CHARACTERS_IN_MEMORY:
            raise DataError(
                f"cannot keep the tokens of {corpus.source} in {shown(folder.parent)} "
                f"({reason(error)}): set HORNBOOK_CACHE_DIR to a folder with room for them"
            ) from None
    # A cache is a convenience: without one the arrays of a small text stay in memory.
    pieces = ([ids for _, ids in tokenizer.encode_chunks(text(0))] for text in parts.values())
    return [np.concatenate(arrays) for arrays in pieces]


def learned_tokenizer(corpus: Corpus, config: DataConfig, cut: int) -> Tokenizer:
    """The tokenizer of a corpus by its settings, learned or found in the cache."""
    kind, size = config.tokenizer, config.bpe_vocab_size
    if kind == "byte":
        return build_tokenizer(kind, "")
    settings = (cut, size, version("tokenizers")) if kind == "bpe" else ()
    asked = fingerprint_of(FORMAT, corpus.sha256, kind, *settings)
    folder = cache.cache_folder() / "tokenizers" / asked[:32]
    if cache.is_sound(folder):
        with suppress(DataError):
            return load_tokenizer(folder / "tokenizer.json")
    stop = cut if kind == "bpe" else corpus.characters
    tokenizer = build_tokenizer(kind, Reader(corpus).between(0, stop), vocab_size=size)
    with suppress(OSError), cache.fill(folder) as place:
        (place / "tokenizer.json").write_bytes(tokenizer.to_json().encode())
    return tokenizer


def fingerprint_of(*facts: object) -> str:
    """A hash that is the same for the same facts, plain JSON values, in the same order."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class Reader:
    """Reads parts of a corpus, in chunks; parts that follow each other, in one pass."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.chunks = corpus.chunks()
        self.place = 0
        self.rest = ""

    def between(self, start: int, stop: int) -> Iterator[str]:
        """The characters from `start` on and before `stop`.

        Raises: DataError when the text ends before `stop`.
        """
        if start < self.place:
            self.chunks, self.place, self.rest = self.corpus.chunks(), 0, ""
        while self.place < stop:
            self.rest = self.rest or next(self.chunks, "")
            if not self.rest:
                raise DataError(
                    f"{self.corpus.source} ends at character {self.place:,} by now, it had "
                    f"{self.corpus.characters:,}: start again"
                )
            wanted = self.rest[max(0, start - self.place) : stop - self.place]
            read = min(len(self.rest), stop - self.place)
            self.rest, self.place = self.rest[read:], self.place + read
            if wanted:
                yield wanted


def check_length(tokens: Tokens, block_size: int, part: str) -> None:
    """See that one block and the token after it fit.

    Raises: DataError saying how many tokens there are and how many are needed.
    """
    if len(tokens) <= block_size:
        raise DataError(
            f"the {part} part of the text has {len(tokens)} tokens, but block_size = {block_size} "
            f"needs at least {block_size + 1}; give a longer text or a smaller block "
            f"(--set block_size={max(1, (len(tokens) - 1) // 2)})"
        )
