"""Reads any text: a named corpus, a file, a folder, standard input or a URL.

A text can be larger than memory: it is read from its files in chunks, each time it is needed. Small
files are read into memory once; a change of a large file between two reads is an error.
"""

import difflib
import json
import os
import re
import stat
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, unquote_to_bytes

from hornbook.errors import DataError, display_path, reason, redacted
from hornbook.language import joined as joined_messages
from hornbook.language import msg
from hornbook.text import conversations as chats
from hornbook.text import corpora
from hornbook.text.corpora import CATALOGUE, DownloadError, KnownCorpus, Progress
from hornbook.text.decoding import CHUNK_BYTES, REPLACING, expect_encoding
from hornbook.text.fields import separate
from hornbook.text.sources import (
    MAX_IN_MEMORY_BYTES,
    BytesSource,
    FileSource,
    Source,
    buffer_stream,
    cannot_read,
    file_source,
    read_bytes,
    status_of,
)
from hornbook.text.survey import Part, Reading, Survey, joined, survey


@dataclass(frozen=True)
class Skipped:
    """A file of a folder that was not read; ``encoding`` is the likely one of a text."""

    file: str
    reason: str
    encoding: str | None = None


def split_place(characters: int, validation_fraction: float = 0.1) -> int:
    """How many characters of a text are the training part; the rest is the validation part.

    Raises: DataError if a part would be empty.
    """
    # The lecture's int(0.9 * len(data)), to the character.
    cut = int((1 - validation_fraction) * characters)
    if not 0 < cut < characters:
        found = msg("{count} characters", count=characters)
        if characters == 1:
            found = msg("1 character")
        raise DataError(
            msg("the text has {found}, too few to split into training and validation", found=found)
        )
    return cut


@dataclass(frozen=True)
class Corpus:
    """A text and its origin; ``notes`` are messages for the user.

    ``sha256`` is the hash of the text in UTF-8; messages call the corpus ``source``;
    ``boundaries`` are offsets at which documents begin; ``skipped`` are a folder's unread files.
    """

    name: str
    sha256: str
    characters: int
    source: str
    notes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = field(default=(), repr=False, compare=False)
    names: tuple[str, ...] = field(default=(), repr=False, compare=False)
    offsets: tuple[int, ...] = field(default=(0,), repr=False, compare=False)
    boundaries: tuple[int, ...] = field(default=(), repr=False, compare=False)
    skipped: tuple[Skipped, ...] = ()

    @property
    def text(self) -> str:
        """The whole text, as one string in memory. Raises: DataError if a file has changed."""
        return "".join(self.chunks())

    def chunks(self) -> Iterator[str]:
        """The text in chunks. Raises: DataError if a file has changed."""
        return joined(self.parts)

    @property
    def conversations(self) -> bool:
        """Whether the text is conversations, as `text.conversations` joins them."""
        return any(part.reading.conversations for part in self.parts)

    def kept(self) -> Iterator[bytes]:
        """Bytes that are this text when read with the same settings.

        They are those of a single source; several are joined in UTF-8, and documents are lines of
        JSON.
        """
        first = self.parts[0]
        if len(self.parts) == 1:
            with first.source.open() as file:
                while data := file.read(CHUNK_BYTES):
                    first.source.check(file)
                    yield data
        elif first.reading.conversations:
            yield from (chats.as_row(each).encode() for each in chats.conversations(self.chunks()))
        elif first.reading.field is None:
            yield from (chunk.encode() for chunk in self.chunks())
        else:
            for document in separate(self.chunks()):
                yield f"{json.dumps({first.reading.field: document})}\n".encode()

    def split_place(self, validation_fraction: float = 0.1) -> int:
        """How many characters are the training part: at a fraction, or between the documents near.

        Raises: DataError if a part would be empty.
        """
        cut = split_place(self.characters, validation_fraction)
        return min(self.boundaries, key=lambda place: abs(place - cut), default=cut)

    def files(self) -> list[tuple[int, str]]:
        """The offset of each file in the text, in characters, and its path within the folder."""
        if len(self.parts) < 2:
            return [(0, self.source)]
        return list(zip(self.offsets, self.names, strict=True))


def load_text(corpus: str = corpora.DEFAULT, *, encoding: str | None = None) -> str:
    """The text of a corpus, as ``read_corpus`` reads it. Raises: DataError, ConfigError."""
    return read_corpus(corpus, encoding=encoding).text


def read_corpus(
    corpus: str | os.PathLike[str],
    *,
    encoding: str | None = None,
    field: str | None = None,
    conversations: bool = False,
    on_progress: Progress | None = None,
    catalogue: Sequence[KnownCorpus] = CATALOGUE,
) -> Corpus:
    """Read a text by name, file, folder, ``-`` (standard input) or URL; a path object is a path.

    Text is decoded as ``encoding``, or by its byte order mark, or as UTF-8; line ends are kept. The
    encoding "auto" is the likely one of each file; one that ends in ":replace" puts U+FFFD in the
    place of bytes that are not of it. With ``field`` the text is that field of JSON Lines, CSV or
    Parquet, its documents joined by U+001E. With ``conversations`` it is JSON Lines of messages, or
    of prompts and responses, as `text.conversations` joins them.
    A download calls ``on_progress`` from another thread with the bytes done and in all, or None.
    Raises: DataError if there is no text; ConfigError for an unknown encoding.
    """
    if encoding is not None:
        expect_encoding(encoding)
    reading = Reading(encoding, field, conversations)
    if not isinstance(corpus, str):
        return _read_path(Path(corpus), reading)
    if not corpus or "\0" in corpus:
        raise DataError(
            msg("expected the name of a corpus, a file or a folder, got {corpus!r}", corpus=corpus)
        )
    if corpus == "-":
        return _corpus("stdin", _read_stdin(), reading, msg("standard input"))
    if "://" in corpus:
        return _read_url(corpus, reading, on_progress)
    # A shell does not expand the ~ in --corpus=~/book.txt.
    path = Path(os.path.expanduser(corpus))  # noqa: PTH111 - Path.expanduser raises without a home
    known = next((k for k in catalogue if corpus in (k.name, *k.aliases)), None)
    if known is not None:
        data, source = corpora.fetch(known, on_progress)
        found = _corpus(known.name, BytesSource(source, data), Reading("utf-8", field), source)
        note = msg("./{corpus} exists too: use ./{corpus} to read it instead", corpus=corpus)
        return replace(found, notes=(note,)) if os.path.lexists(corpus) else found
    if status_of(path) is None:
        named = corpora.data_file(corpus)
        if named is not None and status_of(named) is not None:
            return _corpus(_slug(corpus), file_source(named), reading, display_path(named))
        if not path.is_symlink():
            raise _missing(corpus, path, catalogue)
    return _read_path(path, reading)


def path_reference(path: Path) -> str:
    """A path as ``read_corpus`` takes it, in UTF-8: as a URL if the path itself is not."""
    try:
        return str(path).encode().decode()
    except UnicodeEncodeError:
        return path.as_uri()


def join(corpora: Sequence[Corpus]) -> Corpus:
    """Several texts as one in their order, each read as it was."""
    parts = tuple(part for corpus in corpora for part in corpus.parts)
    found = survey(parts, lenient=False)
    names = [
        name
        for corpus in corpora
        for name in (corpus.names if len(corpus.parts) > 1 else (corpus.source,))
    ]
    return replace(
        corpora[0],
        name=f"{corpora[0].name}-and-{len(corpora) - 1}-more",
        sha256=found.sha256,
        characters=found.characters,
        source=msg("{first} and {more} more", first=corpora[0].source, more=len(corpora) - 1),
        notes=(),
        parts=parts,
        names=tuple(names[number] for number in found.texts),
        offsets=tuple(found.offsets),
        boundaries=tuple(found.boundaries),
        skipped=tuple(each for corpus in corpora for each in corpus.skipped),
    )


def _read_path(path: Path, reading: Reading) -> Corpus:
    status = status_of(path)
    if status is None:
        why = msg("there is no file or folder of that name")
        if path.is_symlink():
            why = msg("there is a symbolic link to nothing of that name")
        raise DataError(msg("cannot read {path}: {why}", path=display_path(path), why=why))
    if stat.S_ISDIR(status.st_mode):
        return _read_folder(path, reading)
    name = path.resolve().parent.name if path.stem == "input" else path.stem
    return _corpus(_slug(name), file_source(path), reading, display_path(path))


def _read_folder(folder: Path, reading: Reading) -> Corpus:
    """Join the text files below a folder in order of their paths; notes list the skipped files."""
    names: list[str] = []
    skipped: list[Skipped] = []
    for name in sorted(files_below(folder)):
        try:
            regular = stat.S_ISREG((folder / name).stat().st_mode)
        except OSError:  # a link to nothing, or to itself
            regular = False
        if regular:
            names.append(name)
        else:
            skipped.append(Skipped(display_path(name), msg("not a regular file")))
    sources = _in_memory_if_small([file_source(folder / name) for name in names])
    names = [display_path(name) for name in names]
    found = survey([Part(source, reading) for source in sources], lenient=True)
    why = zip(found.skipped, found.reasons, found.likely, strict=True)
    skipped += [Skipped(names[number], reason, likely) for number, reason, likely in why]
    notes: list[str] = [
        msg("{note} (in {number:,} files)", note=note, number=n)
        if n > 1
        else msg("{note} (in 1 file)", note=note)
        for note, n in found.notes.items()
    ]
    notes += _skipped_notes(skipped)
    if not found.texts:
        why = msg(" ({notes})", notes=joined_messages("; ", notes)) if notes else ""
        raise DataError(
            msg(
                "expected text files in the folder {folder}, found none{why}",
                folder=display_path(folder),
                why=why,
            )
        )
    return Corpus(
        name=_slug(folder.resolve().name),
        sha256=found.sha256,
        characters=found.characters,
        source=display_path(folder),
        notes=tuple(notes),
        parts=_parts(sources, reading, found),
        names=tuple(names[number] for number in found.texts),
        offsets=tuple(found.offsets),
        boundaries=tuple(found.boundaries),
        skipped=tuple(sorted(skipped, key=lambda each: each.file)),
    )


def _skipped_notes(skipped: Sequence[Skipped]) -> Iterator[str]:
    """What was skipped: texts in other encodings, and the rest."""
    for encoding in dict.fromkeys((*(each.encoding for each in skipped), None)):
        files = sorted(each.file for each in skipped if each.encoding == encoding)
        if not files:
            continue
        several, listed = len(files) > 1, ", ".join(files[:3])
        if len(files) > 3:
            listed = msg("{listed} and {more:,} more", listed=listed, more=len(files) - 3)
        which = msg("skipped 1 file that")
        if several:
            which = msg("skipped {number:,} files that", number=len(files))
        if encoding is None:
            kind = msg("are not text") if several else msg("is not text")
            yield msg("{which} {kind}: {listed}", which=which, kind=kind, listed=listed)
            continue
        kind = msg("looks like {encoding}", encoding=encoding)
        if several:
            kind = msg("look like {encoding}", encoding=encoding)
        if encoding == REPLACING:
            kind = msg("is UTF-8 but for a few bytes")
            if several:
                kind = msg("are UTF-8 but for a few bytes")
        yield msg(
            "{which} {kind}: {listed}; --encoding auto reads each file in its own encoding",
            which=which,
            kind=kind,
            listed=listed,
        )


def _parts(sources: Sequence[Source], reading: Reading, found: Survey) -> tuple[Part, ...]:
    """The parts that are texts, each with the encoding that it has."""
    return tuple(
        Part(sources[number], replace(reading, encoding=encoding))
        for number, encoding in zip(found.texts, found.encodings, strict=True)
    )


def _corpus(name: str, source: Source, reading: Reading, origin: str) -> Corpus:
    """The text of one source."""
    sources = _in_memory_if_small([source])
    found = survey([Part(source, reading) for source in sources], lenient=False)
    if not found.characters:
        raise DataError(msg("{origin} is empty: expected text", origin=display_path(origin)))
    return Corpus(
        name=name,
        sha256=found.sha256,
        characters=found.characters,
        source=origin,
        notes=tuple(found.notes),
        parts=_parts(sources, reading, found),
        boundaries=tuple(found.boundaries),
    )


def _in_memory_if_small(sources: Sequence[Source]) -> list[Source]:
    """Read the files into memory, unless they are large in total."""
    size = sum(source.signature[0] for source in sources if isinstance(source, FileSource))
    return [
        BytesSource(source.name, read_bytes(source.path))
        if isinstance(source, FileSource) and size <= MAX_IN_MEMORY_BYTES
        else source
        for source in sources
    ]


def files_below(folder: Path) -> Iterator[str]:
    """Relative POSIX paths of files; hidden names are skipped, links to folders not entered."""

    def refuse(error: OSError) -> None:
        raise cannot_read(Path(error.filename), error) from None

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = (Path(root, name) for name in files if not name.startswith("."))
        yield from (path.relative_to(folder).as_posix() for path in shown)


def _read_stdin() -> Source:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise DataError(msg("expected text on standard input, but there is no standard input"))
    try:
        return buffer_stream(stream, "standard input")
    except (OSError, ValueError) as error:
        raise DataError(msg("cannot read standard input: {error}", error=reason(error))) from None


def _read_url(url: str, reading: Reading, on_progress: Progress | None) -> Corpus:
    local = Path(os.fsdecode(unquote_to_bytes(url.removeprefix("file://"))))
    if path_reference(local) == url:  # a path that is not UTF-8
        return _read_path(local, reading)
    try:
        with tempfile.TemporaryDirectory(prefix="hornbook-") as folder:
            target = Path(folder) / "download"
            corpora.download(url, target, on_progress)
            with target.open("rb") as file:
                source = buffer_stream(file, display_path(url))
    except OSError as error:
        where = display_path(url)
        raise DataError(
            msg("cannot save the download of {where}: {error}", where=where, error=reason(error))
        ) from None
    except DownloadError as error:
        raise DataError(
            msg("cannot download {url}: {error}", url=display_path(url), error=error)
        ) from None
    # Not by urllib, which refuses some URLs that fsspec accepts.
    address = PurePosixPath(unquote(re.split(r"[?#]", url.split("://", 1)[1])[0]))
    name = address.parent.name if address.stem == "input" else address.stem
    return _corpus(_slug(name), source, reading, redacted(url))


def _missing(corpus: str, path: Path, catalogue: Iterable[KnownCorpus]) -> DataError:
    names = [name for known in catalogue for name in (known.name, *known.aliases)]
    data_dir = os.environ.get("HORNBOOK_DATA_DIR")
    if data_dir:
        shelf = Path(data_dir)
        names += [name for name in _names_in(shelf) if (shelf / name / "input.txt").exists()]
    close = difflib.get_close_matches(corpus.lower(), names, 1)
    if not close:
        near = difflib.get_close_matches(path.name, _names_in(path.parent), 1)
        close = [str(path.with_name(name)) for name in near]
    hint = msg(" (did you mean {near}?)", near=display_path(close[0])) if close else ""
    known_names = ", ".join(known.name for known in catalogue)
    return DataError(
        msg(
            "there is no corpus, file or folder {corpus}{hint}: expected one of "
            "{known}, or a file, a folder, a URL, or - for standard input",
            corpus=display_path(corpus),
            hint=hint,
            known=known_names,
        )
    )


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(islice((entry.name for entry in folder.iterdir()), 1000))
    except OSError:
        return []


def _slug(name: str) -> str:
    """A name that is safe for a folder; letters of every script stay."""
    safe = "".join(
        c if c.isalnum() or c in "._-" or unicodedata.category(c).startswith("M") else "-"
        for c in unicodedata.normalize("NFC", name)
    )
    return re.sub("--+", "-", safe).strip("._-")[:60].rstrip("._-") or "text"
