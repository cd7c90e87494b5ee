"""Prepares a store: by several processes, by several jobs, and over several attempts."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from socket import gethostname

import msgspec
import numpy as np

from hornbook import __version__
from hornbook.errors import CheckpointError, ConfigError, DataError, display_path, reason
from hornbook.language import msg
from hornbook.preparation.documents import Reading, Unit, read_unit, units_of
from hornbook.preparation.duplicates import (
    nearly_repeated,
    read_documents,
    remove_leftovers,
    repeated,
    without,
)
from hornbook.preparation.files import SourceFile, list_files
from hornbook.preparation.shard import (
    Record,
    document_hash,
    is_validation,
    read_record,
    token_type,
    write_shard,
)
from hornbook.storage.disk import DISK, UNFINISHED, write_atomically
from hornbook.storage.files import read_regular
from hornbook.storage.lock import Lock
from hornbook.text.fields import SEPARATOR
from hornbook.text.shards import FORMAT, SHARDS, FolderPieces, Shard
from hornbook.text.store import (
    BEGUN,
    MANIFEST,
    MANIFEST_BYTES,
    PARTS,
    TOKENIZER,
    Dropped,
    Manifest,
    Skipped,
    Store,
    open_store,
    sealed,
)
from hornbook.text.tokenizer import Tokenizer, build_tokenizer, load_tokenizer

# What BPE learns its merges from: the beginnings of so many units, in characters.
LEARNED_UNITS, LEARNED_CHARACTERS = 64, 1 << 24

Progress = Callable[[int, int], None]


class Wanted(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a store is to be; `tokenizer` is "bpe", "byte", or the path of a file or a run."""

    sources: list[str]
    reading: Reading = Reading()
    tokenizer: str = "bpe"
    vocab_size: int = 8192
    validation_share: float = 0.01
    unit_bytes: int = 1 << 26
    keep_duplicates: bool = False
    # The share of windows by which documents are nearly the same; 1 keeps such documents.
    near: float = 1.0


class Begun(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The contents of `begun.json`: what was wanted, and what it came to."""

    format: int
    wanted: Wanted
    tokenizer_sha256: str
    files: list[SourceFile]
    units: list[Unit]


@dataclass(frozen=True)
class Outcome:
    """How far a store is: of all its shards those that are written, and the store at the end."""

    shards: int
    written: int
    made: int
    store: Store | None = None


def prepare(
    wanted: Wanted,
    out: Path,
    *,
    job: int = 1,
    jobs: int = 1,
    workers: int = 1,
    on_progress: Progress = lambda _done, _total: None,
) -> Outcome:
    """Prepare a store, or this job's share of it; whichever job writes the last shard finishes it.

    What earlier attempts have written is not made again.
    Raises: ConfigError where the folder is something else, or was begun with other settings;
    DataError for a text that cannot be read; CheckpointError when the disk refuses, or another
    process does this job.
    """
    begun = begin(wanted, out)
    if (out / MANIFEST).exists():
        store = open_store(out)
        remove_leftovers(out, store.manifest.shards)
        return Outcome(len(store.manifest.shards), len(store.manifest.shards), 0, store)
    held = msg("does the same; give each job a number of its own with --shard")
    with Lock(out, f".lock-{job}-of-{jobs}", held):
        own = range(len(begun.units))[job - 1 :: jobs]
        missing = [number for number in own if read_record(out, number) is None]
        for done, _ in enumerate(made(out, missing, workers), 1):
            on_progress(len(own) - len(missing) + done, len(own))
    records = [read_record(out, number) for number in range(len(begun.units))]
    there = [record for record in records if record is not None]
    if len(there) < len(records):
        return Outcome(len(records), len(there), len(missing))
    last = Lock(out, ".lock-finish")
    try:
        last.acquire()
    except CheckpointError:  # another job is finishing it
        return Outcome(len(records), len(records), len(missing))
    with last:
        if not (out / MANIFEST).exists():
            finish(out, begun, there)
    store = open_store(out)
    remove_leftovers(out, store.manifest.shards)
    return Outcome(len(records), len(records), len(missing), store)


def begin(wanted: Wanted, out: Path) -> Begun:
    """The plan of a store: that of an earlier attempt or of another job, or a new one.

    Raises: ConfigError, DataError, CheckpointError.
    """
    shown = display_path(out)
    try:
        DISK.make_folder(out)
        there = {path.name for path in out.iterdir()}
        begun = read_begun(out) if BEGUN in there else None
        others = {name for name in there - {SHARDS, TOKENIZER} if not name.startswith(".")}
        if begun is None and others:
            raise ConfigError(
                msg("--out {shown}: a folder that is no store; name a new one", shown=shown)
            )
        DISK.make_folder(out / SHARDS)
    except OSError as error:
        raise ConfigError(msg("--out {shown}: {why}", shown=shown, why=reason(error))) from None
    if begun is None:
        files = list_files(wanted.sources)
        units = units_of(files, wanted.reading, wanted.unit_bytes)
        tokenizer = tokenizer_for(wanted, files, units)
        put_first(out / TOKENIZER, tokenizer.to_json().encode())
        digest = hashlib.sha256(read_regular(out / TOKENIZER)).hexdigest()
        plan = Begun(FORMAT, wanted, digest, files, units)
        put_first(out / BEGUN, msgspec.json.encode(plan))
        begun = read_begun(out)
    for name in Wanted.__struct_fields__:
        old, new = getattr(begun.wanted, name), getattr(wanted, name)
        if old != new:
            raise ConfigError(
                msg(
                    "{shown} was begun with {name} = {old}, now it is {new}: give the same "
                    "settings, or prepare a new store",
                    shown=shown,
                    name=name,
                    old=said(old),
                    new=said(new),
                )
            )
    if not (out / MANIFEST).exists() and list_files(wanted.sources) != begun.files:
        raise DataError(
            msg(
                "{shown}: the files to prepare are not those it was begun with: some are new, "
                "gone or changed; bring them back, or prepare a new store",
                shown=shown,
            )
        )
    return begun


def said(value: object) -> str:
    """A setting's value for a message."""
    return str(msgspec.to_builtins(value))


def read_begun(out: Path) -> Begun:
    """The plan of a store. Raises: DataError."""
    try:
        return msgspec.json.decode(read_regular(out / BEGUN, MANIFEST_BYTES), type=Begun)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            msg("{out}: cannot be read: {why}", out=display_path(out / BEGUN), why=reason(error))
        ) from None


def put_first(path: Path, data: bytes) -> None:
    """Write a file unless another job has written it before.

    Raises: CheckpointError when the disk refuses.
    """
    own = path.with_name(f"{UNFINISHED}{gethostname()}-{os.getpid()}-{path.name}")
    write_atomically(own, data)
    try:
        os.link(own, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            own.replace(path)
    own.unlink(missing_ok=True)


def tokenizer_for(wanted: Wanted, files: list[SourceFile], units: list[Unit]) -> Tokenizer:
    """The tokenizer of a new store. Raises: ConfigError, DataError."""
    if wanted.tokenizer == "char":
        raise ConfigError(
            msg(
                "--tokenizer char needs every character of all texts before the first is read: "
                "use bpe, byte, or the tokenizer.json of a run"
            )
        )
    if wanted.tokenizer in ("bpe", "byte"):
        text = training_text(wanted, files, units) if wanted.tokenizer == "bpe" else ""
        return build_tokenizer(wanted.tokenizer, text, vocab_size=wanted.vocab_size)
    path = Path(wanted.tokenizer).expanduser()
    tokenizer = load_tokenizer(path / TOKENIZER if path.is_dir() else path)
    if not tokenizer.knows(SEPARATOR):
        raise DataError(
            msg(
                "{path} has no token for U+001E, which separates documents: use bpe or byte, or "
                "a tokenizer that knows all bytes",
                path=display_path(path),
            )
        )
    return tokenizer


def training_text(wanted: Wanted, files: list[SourceFile], units: list[Unit]) -> Iterator[str]:
    """Documents of the training part, from the beginnings of units all over the store."""
    chosen = units[:: -(-len(units) // LEARNED_UNITS)]
    for unit in chosen:
        left = LEARNED_CHARACTERS // len(chosen)
        for document in read_unit(unit, files, wanted.reading, {}):
            if not is_validation(document_hash(document.text), wanted.validation_share):
                yield document.text[:left]
                left -= len(document.text)
            if left <= 0:
                break


def made(out: Path, numbers: Sequence[int], workers: int) -> Iterator[Record]:
    """Make shards, as they are done; several processes are told apart from this one's threads.

    Raises: HornbookError of the first that fails; DataError where a process was killed.
    """
    if workers == 1 or len(numbers) < 2:
        yield from (make(out, number) for number in numbers)
        return
    with pool_of(min(workers, len(numbers))) as pool:
        rest = iter(numbers)
        waiting: set[Future[Record]] = set()
        try:
            while True:
                # Few at once: a million futures would take memory, and all would have to end.
                for number in islice(rest, 2 * workers - len(waiting)):
                    waiting.add(pool.submit(make, out, number))
                if not waiting:
                    return
                done = next(as_completed(waiting))
                waiting.remove(done)
                yield done.result()
        except BrokenProcessPool:
            raise DataError(
                msg(
                    "a process that was preparing a shard was killed (not enough memory?); what "
                    "was written is kept: the same command goes on from there, and --workers 1 "
                    "takes less"
                )
            ) from None


@contextmanager
def pool_of(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end at once when this one does, or leaves the block by an error."""
    context = multiprocessing.get_context("spawn")
    ends, here = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, initializer=attend, initargs=(ends,))
    try:
        yield pool
    finally:
        here.close()
        pool.shutdown(cancel_futures=True)
        ends.close()


def attend(parent: Connection) -> None:
    """Prepare this process for its work: one core, and no life without its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def watch() -> None:
        with suppress(EOFError, OSError):
            parent.recv_bytes()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@cache
def opened(out: Path) -> tuple[Begun, Tokenizer]:
    """The plan and the tokenizer of a store, read once a process."""
    return read_begun(out), load_tokenizer(out / TOKENIZER)


def make(out: Path, number: int) -> Record:
    """Write one shard. Raises: DataError."""
    begun, tokenizer = opened(out)
    unit, skipped = begun.units[number], dict[str, str]()
    documents = read_unit(unit, begun.files, begun.wanted.reading, skipped)
    share = begun.wanted.validation_share
    return write_shard(
        out,
        number,
        unit.group,
        documents,
        skipped,
        tokenizer=tokenizer,
        validation_share=share,
        sign=begun.wanted.near < 1,
    )


def finish(out: Path, begun: Begun, records: Sequence[Record]) -> None:
    """Leave out what is there twice, and write the manifest.

    Raises: DataError for a store without a part; CheckpointError when the disk refuses.
    """
    tokenizer, wanted = load_tokenizer(out / TOKENIZER), begun.wanted
    shards, repeats, similar = [record.shard for record in records], 0, 0
    if not wanted.keep_duplicates:
        try:
            shards, repeats, similar = unique(out, records, tokenizer, wanted.near)
        except OSError as error:
            raise DataError(msg("{out}: {why}", out=display_path(out), why=reason(error))) from None
    skipped = {name: why for record in records for name, why in record.skipped.items()}
    for part in PARTS:
        if sum(getattr(shard, part).tokens for shard in shards) < 2:
            documents = sum(record.documents for record in records)
            first = next(iter(skipped.values()), None)
            why = msg("; a file was skipped: {reason}", reason=first) if first else ""
            named = {"train": msg("train"), "validation": msg("validation")}[part]
            raise DataError(
                msg(
                    "{out}: no text is in the {part} part, of {documents:,} documents of which "
                    "a share of {validation_share:g} is for validation: prepare a new store "
                    "with another --validation{why}",
                    out=display_path(out),
                    part=named,
                    documents=documents,
                    validation_share=wanted.validation_share,
                    why=why,
                )
            )
    manifest = Manifest(
        format=FORMAT,
        hornbook=__version__,
        tokenizer_sha256=begun.tokenizer_sha256,
        vocab_size=tokenizer.vocab_size,
        validation_share=wanted.validation_share,
        newlines=wanted.reading.newlines,
        normalize=wanted.reading.normalize,
        has_cr=any(record.has_cr for record in records),
        sampled_characters=(0, 0),
        dropped=Dropped(sum(record.empty for record in records), repeats, similar),
        skipped=[Skipped(name, why) for name, why in sorted(skipped.items())],
        shards=shards,
    )
    pieces = FolderPieces(out, token_type(tokenizer).itemsize)
    draft = Store(out, "", manifest, tokenizer, pieces)
    train, validation = (
        sum(map(len, tokenizer.decode_chunks(draft.sample(part).tokens))) for part in PARTS
    )
    manifest = msgspec.structs.replace(manifest, sampled_characters=(train, validation))
    write_atomically(out / MANIFEST, sealed(manifest))


def unique(
    out: Path, records: Sequence[Record], tokenizer: Tokenizer, near: float
) -> tuple[list[Shard], int, int]:
    """The shards without documents that came before, or similar ones; and how many these were.

    Raises: OSError; DataError for a damaged file.
    """
    documents = read_documents(out, records)
    drops = repeats = repeated(documents)
    if near < 1:
        similar = nearly_repeated(out, documents, near)
        drops = [one | other for one, other in zip(repeats, similar, strict=True)]
    separator = tokenizer.encode_array(SEPARATOR).astype(token_type(tokenizer))
    shards = [
        without(out, record.shard, known, drop, separator)
        for record, known, drop in zip(records, documents, drops, strict=True)
    ]
    same, both = (int(sum(map(np.count_nonzero, each))) for each in (repeats, drops))
    return shards, same, both - same
