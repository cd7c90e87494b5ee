"""Writes one shard: the tokens of a unit's documents, whole or not at all."""

import hashlib
import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from socket import gethostname
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from hornbook.errors import DataError, display_path, reason
from hornbook.language import msg
from hornbook.preparation.documents import Document
from hornbook.preparation.similarity import Signatures, signature
from hornbook.storage.disk import UNFINISHED, write_atomically
from hornbook.storage.files import JSON_BYTES, read_regular
from hornbook.text.fields import SEPARATOR
from hornbook.text.shards import PIECE_BYTES, SHARDS, Part, Shard
from hornbook.text.store import PARTS
from hornbook.text.tokenizer import Tokenizer

# What is known of each document until the store is finished. `hash` is half of its SHA-256.
DOCUMENT = np.dtype(
    [
        ("hash", "<u8", 2),
        ("tokens", "<u4"),
        ("characters", "<u4"),
        ("part", "u1"),
        ("follows", "?"),
    ]
)
Documents = NDArray[np.void]


class Record(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A shard that is written: the last of its files."""

    shard: Shard
    documents: int
    documents_sha256: str
    empty: int
    has_cr: bool
    skipped: dict[str, str]


def shard_name(number: int) -> str:
    """The beginning of the names of a shard's files."""
    return f"{number:05}"


def record_path(store: Path, number: int) -> Path:
    """The file that says that a shard is written."""
    return store / SHARDS / f"{shard_name(number)}.json"


def documents_path(store: Path, number: int) -> Path:
    """The file with what is known of a shard's documents."""
    return store / SHARDS / f"{shard_name(number)}.documents"


def read_record(store: Path, number: int) -> Record | None:
    """The record of a shard that is written, whose files are there in their sizes; else None."""
    try:
        data = read_regular(record_path(store, number), JSON_BYTES)
        found = msgspec.json.decode(data, type=Record)
        size = documents_path(store, number).stat().st_size
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    there = all((store / getattr(found.shard, part).file).is_file() for part in PARTS)
    return found if there and size == found.documents * DOCUMENT.itemsize else None


def signatures_path(store: Path, number: int) -> Path:
    """The file with the signatures of a shard's documents, where they are compared."""
    return store / SHARDS / f"{shard_name(number)}.signatures"


def document_hash(text: str) -> bytes:
    """What tells documents apart: half of the SHA-256 of the text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def is_validation(digest: bytes, share: float) -> bool:
    """Whether a document is of the validation part: a function of its hash alone."""
    return int.from_bytes(digest[8:], "little") < share * 2**64


class PartWriter:
    """Tokens of one part of a shard, in a file that gets its name when all are written."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.path, self.dtype = path, dtype
        # Of this process alone: another job may be making the same shard.
        self.writing = path.with_name(f"{UNFINISHED}{gethostname()}-{os.getpid()}-{path.name}")
        self.file: BinaryIO = self.writing.open("wb")
        self.held = bytearray()
        self.sha256: list[str] = []
        self.tokens = self.characters = self.documents = 0

    def add(self, ids: NDArray[np.unsignedinteger], characters: int, *, documents: int) -> None:
        """The tokens of so many documents."""
        self.held += ids.astype(self.dtype, copy=False).tobytes()
        self.tokens += len(ids)
        self.characters += characters
        self.documents += documents
        while len(self.held) >= PIECE_BYTES:
            self._write(PIECE_BYTES)

    def finish(self) -> Part:
        """Make the file durable, and give it its name."""
        if self.held:
            self._write(len(self.held))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self.writing.replace(self.path)
        name = f"{self.path.parent.name}/{self.path.name}"
        return Part(name, self.tokens, self.characters, self.documents, self.sha256)

    def discard(self) -> None:
        """Remove what was written."""
        self.file.close()
        self.writing.unlink(missing_ok=True)

    def _write(self, size: int) -> None:
        piece = bytes(self.held[:size])
        del self.held[:size]
        self.file.write(piece)
        self.sha256.append(hashlib.sha256(piece).hexdigest())


def token_type(tokenizer: Tokenizer) -> np.dtype:
    """The type of ids in a file: the smallest that holds the vocabulary, little-endian."""
    return np.min_scalar_type(tokenizer.vocab_size - 1).newbyteorder("<")


def write_shard(
    store: Path,
    number: int,
    group: str,
    documents: Iterable[Document],
    skipped: dict[str, str],
    *,
    tokenizer: Tokenizer,
    validation_share: float,
    sign: bool = False,
) -> Record:
    """Write one shard of documents, and its record last of all.

    `skipped` has the files that reading them has skipped; `sign` has documents compared later.

    Raises: DataError for a text that cannot be read or a disk that refuses; UnknownCharacterError.
    """
    folder = store / SHARDS
    writers = {
        part: PartWriter(folder / f"{shard_name(number)}.{part}.bin", token_type(tokenizer))
        for part in PARTS
    }
    try:
        signatures: list[Signatures] | None = [] if sign else None
        known, empty, has_cr = encode(documents, writers, tokenizer, validation_share, signatures)
        table = known.tobytes()
        if signatures is not None:
            write_atomically(
                signatures_path(store, number), chain([b""], map(np.ndarray.tobytes, signatures))
            )
        write_atomically(documents_path(store, number), table)
        record = Record(
            Shard(group, *(writers[part].finish() for part in PARTS)),
            len(known),
            hashlib.sha256(table).hexdigest(),
            empty,
            has_cr,
            skipped,
        )
        write_atomically(record_path(store, number), msgspec.json.encode(record))
    except OSError as error:
        raise DataError(
            msg(
                "{store}: cannot write shard {number}: {why}; what was written is kept, and the "
                "same command goes on from there",
                store=display_path(store),
                number=number,
                why=reason(error),
            )
        ) from None
    finally:
        for writer in writers.values():
            writer.discard()
    return record


def encode(
    documents: Iterable[Document],
    writers: dict[str, PartWriter],
    tokenizer: Tokenizer,
    validation_share: float,
    signatures: list[Signatures] | None = None,
) -> tuple[Documents, int, bool]:
    """Write the tokens of documents, each after a separator unless it goes on with the last one.

    Their signatures are appended to `signatures`, where that is given.

    Returns what is known of each document, how many were empty, and whether any has CR.
    """
    separator = tokenizer.encode_array(SEPARATOR)
    rows: list[tuple[tuple[int, int], int, int, int, bool]] = []
    empty, has_cr, last = 0, False, None
    for document in documents:
        text = document.text
        if not text.strip():
            empty, last = empty + 1, None
            continue
        digest = document_hash(text)
        part = is_validation(digest, validation_share)
        # With another part between them, two passages are no one text.
        goes_on = document.follows and last == part
        ids = tokenizer.encode_array(text)
        if signatures is not None:
            signatures.append(signature(ids, tokenizer.vocab_size))
        begun = ids[:0] if goes_on else separator
        size = len(text) + (not goes_on)
        writers[PARTS[part]].add(np.concatenate([begun, ids]), size, documents=1)
        halves = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
        rows.append((halves, len(begun) + len(ids), size, part, goes_on))
        has_cr, last = has_cr or "\r" in text, part
    return np.array(rows, DOCUMENT), empty, has_cr
