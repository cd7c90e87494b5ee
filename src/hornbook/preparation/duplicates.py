"""Finds documents that a store has twice, and writes shards without them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hornbook.errors import DataError, display_path
from hornbook.language import msg
from hornbook.preparation.shard import (
    DOCUMENT,
    Documents,
    PartWriter,
    Record,
    documents_path,
    signatures_path,
)
from hornbook.preparation.similarity import NUMBERS, Signatures, similar_to_earlier
from hornbook.storage.files import read_regular
from hornbook.text.shards import SHARDS, Part, Shard, Tokens
from hornbook.text.store import PARTS

Mask = NDArray[np.bool_]
MARK = "unique"


def read_documents(store: Path, records: Sequence[Record]) -> list[Documents]:
    """What is known of the documents of all shards. Raises: DataError for a damaged file."""
    found: list[Documents] = []
    for number, record in enumerate(records):
        path = documents_path(store, number)
        data = read_regular(path)
        if hashlib.sha256(data).hexdigest() != record.documents_sha256:
            raise DataError(
                msg(
                    "{path} is damaged: remove it, and the same command makes it again",
                    path=display_path(path),
                )
            )
        found.append(np.frombuffer(data, DOCUMENT))
    return found


def repeated(shards: Sequence[Documents]) -> list[Mask]:
    """For each document of each shard whether the same text came before it.

    It takes 32 bytes of memory a document.
    """
    hashes = np.concatenate([each["hash"] for each in shards])
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: the first of equals stays first
    ordered = hashes[order]
    same = np.zeros(len(hashes), bool)
    same[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return np.split(same, np.cumsum([len(each) for each in shards])[:-1])


def nearly_repeated(store: Path, shards: Sequence[Documents], share: float) -> list[Mask]:
    """For each document of each shard whether a similar one came before it.

    It takes 550 bytes of memory a document. Raises: OSError; DataError for a damaged file.
    """
    found: list[Signatures] = []
    for number, documents in enumerate(shards):
        path = signatures_path(store, number)
        signatures = np.fromfile(path, "<u4")
        if signatures.size != len(documents) * NUMBERS:
            raise DataError(
                msg("{path} is damaged: prepare the store again", path=display_path(path))
            )
        found.append(signatures.reshape(-1, NUMBERS))
    similar = similar_to_earlier(np.concatenate(found), share)
    return np.split(similar, np.cumsum([len(each) for each in shards])[:-1])


def without(
    store: Path, shard: Shard, documents: Documents, drop: Mask, separator: Tokens
) -> Shard:
    """A shard without some of its documents, in files of its own; the same one if it has none.

    A passage that went on with one that is dropped begins with a separator instead.
    Raises: OSError; DataError for a damaged shard.
    """
    if not drop.any():
        return shard
    parts: list[Part] = []
    for number, part in enumerate(PARTS):
        old: Part = getattr(shard, part)
        path = store / old.file
        own, dropped = (each[documents["part"] == number] for each in (documents, drop))
        sizes = own["tokens"].astype(np.int64)
        tokens = np.fromfile(path, separator.dtype)
        if sizes.sum() != len(tokens):
            raise DataError(
                msg("{path} is damaged: prepare the store again", path=display_path(path))
            )
        orphans = np.flatnonzero(own["follows"][1:] & dropped[:-1] & ~dropped[1:]) + 1
        at = np.repeat((np.cumsum(sizes) - sizes)[orphans], len(separator))
        keep = np.insert(np.repeat(~dropped, sizes), at, values=True)
        tokens = np.insert(tokens, at, np.tile(separator, len(orphans)))[keep]
        writer = PartWriter(path.with_name(path.name.replace(".bin", f".{MARK}.bin")), tokens.dtype)
        try:
            writer.add(tokens, int(own["characters"][~dropped].sum()) + len(orphans), documents=0)
            writer.documents = int((~dropped).sum())
            parts.append(writer.finish())
        finally:
            writer.discard()
    return Shard(shard.group, *parts)


def remove_leftovers(store: Path, shards: Sequence[Shard]) -> None:
    """Remove the files of a finished store that its manifest does not name."""
    named = {store / getattr(shard, part).file for shard in shards for part in PARTS}
    for path in (store / SHARDS).iterdir():
        if path not in named:
            path.unlink(missing_ok=True)
