"""From a text to token arrays: the split into training and validation parts, the tokenizer."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hornbook.config import DataConfig
from hornbook.errors import ConfigError, DataError, display_path, reason
from hornbook.language import by_english, msg
from hornbook.storage import cache
from hornbook.text.arrays import Chunks, Tokens, open_arrays, write_arrays
from hornbook.text.conversations import conversations
from hornbook.text.corpus import Corpus, read_corpus
from hornbook.text.fields import SEPARATOR
from hornbook.text.forms import reformed
from hornbook.text.store import Sample, Store, StoreCorpus, is_store, store_corpus
from hornbook.text.tokenizer import Tokenizer, build_tokenizer, load_tokenizer

Mask = NDArray[np.bool_]

FORMAT = 2
PARTS = ("train", "validation")
# As messages name them.
NAMES = by_english(
    msg("training"),
    msg("validation"),
    msg("evaluated"),
)
# Without a writable cache, arrays of texts up to this length stay in memory.
MAX_CHARACTERS_IN_MEMORY = 1 << 28
SEARCHED_TOKENS = 1 << 20


@dataclass(frozen=True)
class FormedCorpus(Corpus):
    """A corpus with line ends and characters in the form that a run's settings ask for."""

    newlines: str = "keep"
    normalize: str = "none"

    def chunks(self) -> Iterator[str]:
        """The text in chunks. Raises: DataError if a file has changed."""
        return reformed(super().chunks(), newlines=self.newlines, normalize=self.normalize)


def read_text(config: DataConfig) -> Corpus:
    """The text of a run or its store, as its settings say to read it.

    Raises: DataError, ConfigError.
    """
    if is_store(config.corpus):
        return store_corpus(config.corpus, config)
    if config.mix is not None:
        raise ConfigError(
            msg("--mix draws from a store, and {corpus} is none", corpus=config.corpus)
        )
    found = read_corpus(
        config.corpus,
        encoding=config.encoding,
        field=config.field,
        conversations=config.conversations,
    )
    return formed(found, config)


def formed(corpus: Corpus, config: DataConfig) -> Corpus:
    """The corpus in the form of the settings `newlines` and `normalize`; it takes one pass.

    Raises: DataError if a file has changed.
    """
    forms = {"newlines": config.newlines, "normalize": config.normalize}
    if isinstance(corpus, FormedCorpus | StoreCorpus) or forms == {
        "newlines": "keep",
        "normalize": "none",
    }:
        return corpus
    reader, digest, characters = Reader(corpus), hashlib.sha256(), 0
    moved: dict[int, int] = {}
    marks = sorted({*corpus.offsets, *corpus.boundaries})
    for start, stop in pairwise([*marks, corpus.characters]):
        moved[start] = characters
        for chunk in reformed(reader.between(start, stop), **forms):
            digest.update(chunk.encode())
            characters += len(chunk)
    facts = {field.name: getattr(corpus, field.name) for field in fields(corpus)}
    facts |= {
        "sha256": digest.hexdigest(),
        "characters": characters,
        "offsets": tuple(moved[offset] for offset in corpus.offsets),
        "boundaries": tuple(moved[offset] for offset in corpus.boundaries),
    }
    return FormedCorpus(**facts, **forms)


@dataclass(frozen=True)
class Dataset:
    """A tokenised corpus in two parts; the arrays are memory-mapped from the cache.

    Of a store they are samples of it, in memory, and `sample` says where that of the training part
    lies.

    Of conversations `answers` has, for each part, which tokens are the model's to write, and
    `starts` where the training part's conversations begin.
    """

    tokenizer: Tokenizer
    train: Tokens
    validation: Tokens
    fingerprint: str
    answers: tuple[Mask, Mask] | None = None
    starts: NDArray[np.int64] | None = None
    store: Store | None = None
    sample: Sample | None = None

    @property
    def train_tokens(self) -> int:
        """The number of tokens that training draws its blocks from."""
        return len(self.train) if self.store is None else sum(self.store.groups.values())

    @property
    def validation_answers(self) -> Mask | None:
        """Which tokens of the validation part a loss is of; None for all."""
        return None if self.answers is None else self.answers[1]

    def scored(self, array: NDArray[Any]) -> NDArray[Any]:
        """Of an array with a value for each validation token but the first, those that count.

        That is all, or of conversations the answers'. `array` may be of the first tokens only.
        """
        return array if self.answers is None else array[self.answers[1][1 : len(array) + 1]]

    @property
    def measured(self) -> Tokens:
        """The first validation token, which is given, and those that a loss is of."""
        if self.answers is None:
            return self.validation
        return np.concatenate([self.validation[:1], self.scored(self.validation[1:])])


def prepare(corpus: Corpus, config: DataConfig, tokenizer: Tokenizer | None = None) -> Dataset:
    """Tokenise a corpus, or open its token arrays from the cache.

    Without a given tokenizer, the characters come from the whole text, as in the lecture, and BPE
    learns its merges from the training part only. The text is read in chunks, so it can be larger
    than memory. After a kill the next call continues where the last one stopped.
    Raises: DataError if the text cannot be split; UnknownCharacterError from a given tokenizer.
    """
    if isinstance(corpus, StoreCorpus):
        return prepare_store(corpus, tokenizer)
    cut = corpus.split_place(config.validation_fraction)
    if config.conversations:
        return prepare_conversations(corpus, config, cut, tokenizer)
    tokenizer = tokenizer or learned_tokenizer(corpus, config, cut)
    facts = FORMAT, corpus.sha256, config.validation_fraction, tokenizer.to_json()
    fingerprint = fingerprint_of(*facts, *([cut] if corpus.boundaries else []))
    folder = cache.cache_folder() / "tokens" / fingerprint[:32]
    saved = open_arrays(folder, PARTS, tokenizer.vocab_size)
    train, validation = saved or encode(corpus, tokenizer, cut, folder)
    return Dataset(tokenizer, train, validation, fingerprint)


def prepare_store(corpus: StoreCorpus, tokenizer: Tokenizer | None) -> Dataset:
    """The samples of a store. Raises: DataError for a damaged shard, and for another tokenizer."""
    store = corpus.opened
    if tokenizer is not None and tokenizer != store.tokenizer:
        raise DataError(
            msg(
                "{source} is of another tokenizer ({own!r}) than the model ({tokenizer!r}): "
                "prepare a store with --tokenizer and the model's tokenizer.json",
                source=corpus.source,
                own=store.tokenizer,
                tokenizer=tokenizer,
            )
        )
    train, validation = (store.sample(part) for part in PARTS)
    return Dataset(
        store.tokenizer, train.tokens, validation.tokens, store.sha256, store=store, sample=train
    )


def prepare_conversations(
    corpus: Corpus, config: DataConfig, cut: int, tokenizer: Tokenizer | None
) -> Dataset:
    """Tokenise conversations by a chat template; they are split between two of them.

    Raises: DataError for a single conversation, and for one that the template refuses.
    """
    if not corpus.boundaries:
        raise DataError(
            msg(
                "{source}: expected two conversations or more, to hold one out",
                source=corpus.source,
            )
        )
    if tokenizer is None or config.chat_template is None:
        raise DataError(msg("conversations need the tokenizer and the chat template of a model"))
    from hornbook.text.chat import answered

    reader = Reader(corpus)
    train, validation = (
        answered(config.chat_template, conversations(reader.between(start, stop)), tokenizer)
        for start, stop in ((0, cut - len(SEPARATOR)), (cut, corpus.characters))
    )
    for part, name in ((train, "training"), (validation, "validation")):
        if not part.answers.any():
            raise DataError(
                msg("{source}: no answer in the {part} part", source=corpus.source, part=name)
            )
    facts = (FORMAT, corpus.sha256, config.validation_fraction, tokenizer.to_json())
    return Dataset(
        tokenizer,
        train.tokens,
        validation.tokens,
        fingerprint_of(*facts, config.chat_template),
        (train.answers, validation.answers),
        train.starts,
    )


def has_cr(dataset: Dataset) -> bool:
    """Whether the text of a dataset has CR; it takes one pass over the tokens."""
    if dataset.store is not None:
        return dataset.store.manifest.has_cr
    holding = np.array([b"\r" in token for token in dataset.tokenizer.token_bytes()])
    return any(
        bool(holding[tokens[start : start + SEARCHED_TOKENS]].any())
        for tokens in (dataset.train, dataset.validation)
        for start in range(0, len(tokens), SEARCHED_TOKENS)
    )


def encode(corpus: Corpus, tokenizer: Tokenizer, cut: int, folder: Path) -> list[Tokens]:
    """Both parts of a corpus as token arrays, in the cache if it is writable."""
    reader = Reader(corpus)
    parts: dict[str, Chunks] = {
        "train": lambda done: reader.between(done, cut),
        "validation": lambda done: reader.between(cut + done, corpus.characters),
    }
    try:
        return write_arrays(folder, parts, tokenizer)
    except OSError as error:
        if corpus.characters > MAX_CHARACTERS_IN_MEMORY:
            raise DataError(
                msg(
                    "cannot save the tokens of {source} in {parent} ({error}): set "
                    "HORNBOOK_CACHE_DIR to a folder with room for them",
                    source=corpus.source,
                    parent=display_path(folder.parent),
                    error=reason(error),
                )
            ) from None
    pieces = ([ids for _, ids in tokenizer.encode_chunks(text(0))] for text in parts.values())
    return [np.concatenate(arrays) for arrays in pieces]


def learned_tokenizer(corpus: Corpus, config: DataConfig, cut: int) -> Tokenizer:
    """The tokenizer that the settings ask for, learned from the corpus or read from the cache."""
    kind, size = config.tokenizer, config.bpe_vocab_size
    if kind == "byte":
        return build_tokenizer(kind, "")
    settings = (cut, size, tokenizers_version()) if kind == "bpe" else ()
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


def tokenizers_version() -> str:
    """The version of the library that learns BPE merges."""
    # importlib.metadata takes 7 ms to import, which every `hornbook sample` would wait for.
    from importlib.metadata import version

    return version("tokenizers")


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
                    msg(
                        "{source} now ends at character {offset:,}, it had {characters:,}: "
                        "start again",
                        source=self.corpus.source,
                        offset=self.offset,
                        characters=self.corpus.characters,
                    )
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
        if len(tokens) < 2:
            raise DataError(
                msg(
                    "the {part} text has {tokens}, but at least 2 are needed: each token but the "
                    "first is predicted; use a longer text",
                    part=NAMES[part],
                    tokens=msg("1 token")
                    if len(tokens) == 1
                    else msg("{count} tokens", count=len(tokens)),
                )
            )
        raise DataError(
            msg(
                "the {part} part of the text has {tokens} tokens, but block_size = "
                "{block_size} needs at least {needed}; use a longer text or a smaller "
                "block (--set block_size={smaller})",
                part=NAMES[part],
                tokens=len(tokens),
                block_size=block_size,
                needed=block_size + 1,
                smaller=max(1, (len(tokens) - 1) // 2),
            )
        )
