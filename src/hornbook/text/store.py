"""A store: a text prepared as shards of tokens, which training reads where they are.

Blocks are drawn from all of it. What else a run does with its text (n-grams, copies, the report)
reads a sample of the store, which is small enough for memory.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hornbook.config import DataConfig
from hornbook.errors import ConfigError, DataError, display_path, reason
from hornbook.language import msg
from hornbook.storage import cache, objects
from hornbook.storage.disk import DISK, write_atomically
from hornbook.storage.files import read_regular
from hornbook.text.corpus import Corpus
from hornbook.text.order import CHUNK_TOKENS, BlockOrder, Mixture, parse_mix
from hornbook.text.shards import (
    FORMAT,
    FolderPieces,
    Pieces,
    RemotePieces,
    Shard,
    Stream,
    Tokens,
)
from hornbook.text.tokenizer import Tokenizer, load_tokenizer

PARTS = ("train", "validation")
MANIFEST, BEGUN, TOKENIZER = "store.json", "begun.json", "tokenizer.json"
MANIFEST_BYTES = 1 << 30
# Tokens of both parts that are read into memory, in evenly spaced stretches.
SAMPLED_TRAIN, SAMPLED_VALIDATION, STRETCHES = 5_000_000, 1_000_000, 100


class Dropped(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Documents that were left out, and why."""

    empty: int = 0
    exact_duplicates: int = 0
    near_duplicates: int = 0


class Skipped(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file that was not read to its end."""

    file: str
    reason: str


class Manifest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """All that `store.json` says; `sampled_characters` are those of the two samples."""

    format: int
    hornbook: str
    tokenizer_sha256: str
    vocab_size: int
    validation_share: float
    newlines: str
    normalize: str
    has_cr: bool
    sampled_characters: tuple[int, int]
    dropped: Dropped
    skipped: list[Skipped]
    shards: list[Shard]


class Sealed(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A manifest, and the SHA-256 of its text: the identity of the store."""

    sha256: str
    manifest: msgspec.Raw


def sealed(manifest: Manifest) -> bytes:
    """The content of `store.json`."""
    text = msgspec.json.encode(manifest)
    return msgspec.json.encode(Sealed(hashlib.sha256(text).hexdigest(), msgspec.Raw(text)))


@dataclass(frozen=True)
class Store:
    """An open store."""

    path: Path
    sha256: str
    manifest: Manifest
    tokenizer: Tokenizer
    pieces: Pieces

    @property
    def width(self) -> int:
        """The bytes of a token."""
        return np.min_scalar_type(self.tokenizer.vocab_size - 1).itemsize

    @property
    def groups(self) -> dict[str, int]:
        """The training tokens of each group of texts."""
        found: dict[str, int] = {}
        for shard in self.manifest.shards:
            found[shard.group] = found.get(shard.group, 0) + shard.train.tokens
        return found

    def stream(self, part: str, group: str | None = None) -> Stream:
        """The tokens of a part, "train" or "validation", of one group or of all."""
        shards = [each for each in self.manifest.shards if group in (None, each.group)]
        dtype = np.min_scalar_type(self.tokenizer.vocab_size - 1).newbyteorder("<")
        return Stream([getattr(shard, part) for shard in shards], self.pieces, dtype)

    def sample(self, part: str) -> "Sample":
        """What of a part is read into memory."""
        most = SAMPLED_TRAIN if part == "train" else SAMPLED_VALIDATION
        return Sample.of(self.stream(part), most)


@dataclass(frozen=True)
class Sample:
    """Evenly spaced stretches of a stream, joined; the first begins and the last ends with it."""

    tokens: Tokens
    starts: NDArray[np.int64]  # where each stretch begins in the stream
    length: int

    @classmethod
    def of(cls, stream: Stream, most: int) -> "Sample":
        """All of a stream, or `most` tokens of it. Raises: DataError."""
        if len(stream) <= most:
            return cls(stream.read(0, len(stream)), np.zeros(1, np.int64), max(1, len(stream)))
        length = most // STRETCHES
        starts = [i * (len(stream) - length) // (STRETCHES - 1) for i in range(STRETCHES)]
        found = np.concatenate([stream.read(start, start + length) for start in starts])
        return cls(found, np.array(starts), length)

    def places(self, starts: NDArray[np.int64], block_size: int) -> NDArray[np.int64]:
        """Where blocks of the stream begin in the sample; -1 for those that are not in it.

        A block that only ends in a stretch is taken to begin with it. Shapes: [B] -> [B].
        """
        number = np.maximum(0, self.starts.searchsorted(starts + block_size, side="right") - 1)
        inside = np.maximum(0, starts - self.starts[number])
        found = number * self.length + inside
        touches = (inside < self.length) & (starts + block_size >= self.starts[number])
        return np.where(touches, found, -1)


@dataclass(frozen=True)
class StoreCorpus(Corpus):
    """A store as a text: its hash is the store's, and its characters are those of its samples."""

    store: Store | None = field(default=None, repr=False, compare=False)

    @property
    def opened(self) -> Store:
        """The store. It is a field only because a dataclass's fields have defaults."""
        assert self.store is not None  # noqa: S101
        return self.store

    def chunks(self) -> Iterator[str]:
        """The sample of the training part, then that of the validation part. Raises: DataError."""
        for part in PARTS:
            yield from self.opened.tokenizer.decode_chunks(self.opened.sample(part).tokens)

    def split_place(self, validation_fraction: float = 0.1) -> int:  # noqa: ARG002 - the store's own
        """How many characters are the training part's."""
        return self.opened.manifest.sampled_characters[0]


def is_store(name: str | Path) -> bool:
    """Whether a folder, or an address, is a store, finished or begun.

    An address of a file by its name's ending is none, and nothing is asked of a server.
    Raises: DataError for an address that cannot be reached.
    """
    if isinstance(name, str) and objects.is_address(name):
        url = name.rstrip("/")
        asked = "." not in url.rpartition("/")[2]
        return asked and objects.status(f"{url}/{MANIFEST}") is not None
    # A shell does not expand the ~ in --corpus=~/store.
    path = Path(os.path.expanduser(name))  # noqa: PTH111 - Path.expanduser raises without a home
    return bool(name) and any((path / each).is_file() for each in (MANIFEST, BEGUN))


def open_store(name: str | Path, *, sizes: bool = True) -> Store:
    """A finished store, whose shards are all there in their sizes (not looked at without `sizes`).

    Of one at an address, manifest and tokenizer are copied into the cache, and pieces of shards as
    they are read.

    Raises: DataError for one that is still written or damaged, or that another version wrote.
    """
    remote = isinstance(name, str) and objects.is_address(name)
    url = str(name).rstrip("/")
    path = local_copy(url) if remote else Path(os.path.expanduser(name))  # noqa: PTH111
    shown = display_path(name)
    manifest, sha256 = read_manifest(path, shown)
    try:
        tokenizer = load_tokenizer(path / TOKENIZER)
        found = hashlib.sha256(read_regular(path / TOKENIZER)).hexdigest()
    except OSError as error:
        raise DataError(
            msg(
                "{shown}: cannot read {tokenizer}: {why}",
                shown=shown,
                tokenizer=TOKENIZER,
                why=reason(error),
            )
        ) from None
    if found != manifest.tokenizer_sha256 or tokenizer.vocab_size != manifest.vocab_size:
        raise DataError(
            msg(
                "{shown}: {tokenizer} is not the one that the shards were made with (SHA-256 "
                "{found}, expected {expected}); bring it back",
                shown=shown,
                tokenizer=TOKENIZER,
                found=found[:12],
                expected=manifest.tokenizer_sha256[:12],
            )
        )
    tokenizer.text_has_cr = manifest.has_cr
    width = np.min_scalar_type(manifest.vocab_size - 1).itemsize
    pieces: Pieces = FolderPieces(path, width)
    if remote:
        pieces = RemotePieces(url, width, path / "pieces" / sha256[:16])
    if sizes:
        parts = [part for each in manifest.shards for part in (each.train, each.validation)]
        pieces.check_all(parts)
    return Store(path, sha256, manifest, tokenizer, pieces)


def local_copy(url: str) -> Path:
    """The folder in the cache with a store's manifest and tokenizer as they are now.

    Raises: DataError for a store that cannot be reached; CheckpointError for a full disk.
    """
    key = hashlib.sha256(url.encode()).hexdigest()[:32]
    folder = cache.cache_folder() / "stores" / key
    DISK.make_folder(folder)
    for name in (MANIFEST, TOKENIZER):
        write_atomically(folder / name, objects.read(f"{url}/{name}"))
    return folder


def read_manifest(path: Path, shown: str) -> tuple[Manifest, str]:
    """A store's manifest and identity; messages call it `shown`. Raises: DataError."""
    try:
        found = msgspec.json.decode(read_regular(path / MANIFEST, MANIFEST_BYTES), type=Sealed)
        if hashlib.sha256(found.manifest).hexdigest() != found.sha256:
            raise DataError(
                msg(
                    "{shown}: {manifest} is damaged: its SHA-256 is another; prepare again",
                    shown=shown,
                    manifest=MANIFEST,
                )
            )
        manifest = msgspec.json.decode(found.manifest, type=Manifest)
    except FileNotFoundError:
        raise DataError(
            msg(
                "{shown}: this store is not finished: hornbook prepare is still writing it, or "
                "was stopped; the same command goes on where it stopped",
                shown=shown,
            )
        ) from None
    except OSError as error:
        raise DataError(
            msg(
                "{shown}: cannot read {manifest}: {why}",
                shown=shown,
                manifest=MANIFEST,
                why=reason(error),
            )
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            msg(
                "{shown}: {manifest} is damaged: {why}",
                shown=shown,
                manifest=MANIFEST,
                why=reason(error),
            )
        ) from None
    if manifest.format != FORMAT:
        raise DataError(
            msg(
                "{shown}: in the store format {format}, and this version of hornbook reads "
                "{readable}; prepare it again",
                shown=shown,
                format=manifest.format,
                readable=FORMAT,
            )
        )
    return manifest, found.sha256


def store_corpus(name: str, data: DataConfig) -> StoreCorpus:
    """A store as the text of a run. Raises: DataError; ConfigError for settings of a plain text."""
    store = open_store(name)
    made, shown = store.manifest, display_path(name)
    for form in ("newlines", "normalize"):
        asked, own = getattr(data, form), getattr(made, form)
        if asked not in (own, getattr(DataConfig(), form)):
            raise ConfigError(
                msg(
                    "--{form} {asked}: {shown} was prepared with {own}",
                    form=form,
                    asked=asked,
                    shown=shown,
                    own=own,
                )
            )
    for option, given in (("field", data.field), ("encoding", data.encoding)):
        if given is not None:
            raise ConfigError(
                msg(
                    "--{option} is for hornbook prepare: {shown} has tokens already",
                    option=option,
                    shown=shown,
                )
            )
    kind = store.tokenizer.kind
    if data.tokenizer not in (DataConfig().tokenizer, kind, "pretrained"):
        raise ConfigError(
            msg(
                "--tokenizer {tokenizer}: {shown} has {kind} tokens",
                tokenizer=data.tokenizer,
                shown=shown,
                kind=kind,
            )
        )
    if data.conversations:
        raise ConfigError(
            msg("--chat reads JSON Lines of conversations, and {shown} is a store", shown=shown)
        )
    if data.mix:
        parse_mix(data.mix, store.groups)
    return StoreCorpus(
        name=name.rstrip("/").rpartition("/")[2] or "store",
        sha256=store.sha256,
        characters=sum(made.sampled_characters),
        source=shown,
        store=store,
    )


@dataclass(frozen=True)
class Drawing:
    """Which blocks of a store a training reads: each of an epoch once, by a pure function.

    `before` tokens ahead of each block are read too, and the last `held_out` are left out.
    """

    streams: Sequence[Stream]
    orders: Sequence[BlockOrder]
    firsts: Sequence[int]  # where each stream begins in that of the whole store
    mixture: Mixture
    block_size: int
    before: int
    sample: Sample

    @classmethod
    def of(
        cls,
        store: Store,
        sample: Sample,
        mix: str | None,
        *,
        block_size: int,
        seed: int,
        before: int = 0,
        held_out: int = 0,
    ) -> "Drawing":
        """The drawing of a run. Raises: ConfigError; DataError for a group shorter than a block."""
        groups = parse_mix(mix, store.groups) if mix else {"": 1.0}
        streams = [store.stream("train", group or None) for group in groups]
        whole = len(store.stream("train"))
        firsts, orders = list[int](), list[BlockOrder]()
        names = [*store.groups]
        for group, stream in zip(groups, streams, strict=True):
            earlier = names[: names.index(group)] if group else []
            firsts.append(sum(store.groups[name] for name in earlier))
            # Held out is the end of the store, which one of the groups has.
            most = min(len(stream), whole - held_out - firsts[-1])
            blocks = (most - 1 - before) // block_size
            if blocks < 1:
                part = msg("the store")
                if group:
                    part = msg("the group {group} of the store", group=group)
                raise DataError(
                    msg(
                        "the training part of {part} has {most:,} tokens, and one block needs "
                        "{needed:,}: prepare more text, or use a smaller block",
                        part=part,
                        most=most,
                        needed=block_size + before + 1,
                    )
                )
            chunk = max(1, CHUNK_TOKENS // block_size)
            orders.append(BlockOrder(blocks, chunk, f"{seed}/{group}"))
        return cls(streams, orders, firsts, Mixture(groups), block_size, before, sample)

    def draw(self, numbers: NDArray[np.int64]) -> tuple[Tokens, NDArray[np.int64]]:
        """The blocks with these numbers, counted from the training's first, and their targets.

        With them where each block begins in the store's sample, less `before`; -1 for most.
        Shapes: [B] -> [B, before + T + 1], [B]. Raises: DataError for a damaged shard.
        """
        groups, places = self.mixture.places(numbers)
        starts = np.empty_like(numbers)
        for number, order in enumerate(self.orders):
            chosen = groups == number
            starts[chosen] = order.at(places[chosen]) * self.block_size
        length = self.before + self.block_size + 1
        rows = [
            self.streams[group].read(start, start + length)
            for group, start in zip(groups.tolist(), starts.tolist(), strict=True)
        ]
        windows = np.stack(rows) if rows else np.empty((0, length), np.uint8)
        begins = np.array(self.firsts)[groups] + starts + self.before
        return windows, self.sample.places(begins, self.block_size) - self.before


def what_was_read(store: Store, mix: str | None, blocks: int, block_size: int) -> dict[str, Any]:
    """What so many blocks have read: tokens, and how often that is all of each group.

    Without a mix the groups are read together, each as much as it has.
    """
    groups = store.groups
    weights = parse_mix(mix, groups) if mix else groups
    drawn = Mixture(weights).drawn(blocks) if mix else dict.fromkeys(groups, 0)
    whole = sum(groups.values())
    read: dict[str, Any] = {}
    for name in weights:
        share = drawn[name] / max(1, blocks) if mix else groups[name] / whole
        tokens = drawn[name] * block_size if mix else round(share * blocks * block_size)
        read[name] = {"share": share, "tokens": tokens, "epochs": tokens / max(1, groups[name])}
    return read
