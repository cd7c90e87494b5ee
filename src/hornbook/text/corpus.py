"""Reads any text: a named corpus, a file, a folder, standard input or a URL.

A text can be larger than memory: it is read from its files in chunks, each time it is needed. Small
files are read into memory once; a change of a large file between two reads is an error.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import sys
import tempfile
import unicodedata
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from hornbook.errors import DataError, display_path, reason, redacted
from hornbook.text.corpora import CATALOGUE, DEFAULT, DownloadError, data_file, download, fetch
from hornbook.text.decoding import expect_encoding
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
from hornbook.text.survey import beginnings, joined, survey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hornbook.text.corpora import KnownCorpus, Progress


@dataclass(frozen=True)
class Corpus:
    """A text and its origin; ``notes`` are messages for the user.

    ``sha256`` is the hash of the text in UTF-8; messages call the corpus ``source``.
    """

    name: str
    sha256: str
    characters: int
    source: str
    notes: tuple[str, ...] = ()
    parts: tuple[Source, ...] = field(default=(), repr=False, compare=False)
    encoding: str | None = field(default=None, repr=False, compare=False)

    @property
    def text(self) -> str:
        """The whole text, as one string in memory. Raises: DataError if a file has changed."""
        return "".join(self.chunks())

    def chunks(self) -> Iterator[str]:
        """The text in chunks. Raises: DataError if a file has changed."""
        return joined(self.parts, self.encoding)

    def files(self) -> list[tuple[int, str]]:
        """The offset of each file in the text, in characters, and its path within the folder.

        Raises: DataError if a file has changed.
        """
        if len(self.parts) < 2:
            return [(0, self.source)]
        names = (part.name.removeprefix(f"{self.source}{os.sep}") for part in self.parts)
        return list(zip(beginnings(self.parts, self.encoding), names, strict=True))


def load_text(corpus: str = DEFAULT, *, encoding: str | None = None) -> str:
    """The text of a corpus, as ``read_corpus`` reads it. Raises: DataError, ConfigError."""
    return read_corpus(corpus, encoding=encoding).text


def read_corpus(
    corpus: str | os.PathLike[str],
    *,
    encoding: str | None = None,
    on_progress: Progress | None = None,
    catalogue: Sequence[KnownCorpus] = CATALOGUE,
) -> Corpus:
    """Read a text by name, file, folder, ``-`` (standard input) or URL; a path object is a path.

    Text is decoded as ``encoding``, or by its byte order mark, or as UTF-8; line ends are kept.
    A download calls ``on_progress`` from another thread with the bytes done and the total (None if
    unknown).
    Raises: DataError if there is no text; ConfigError for an unknown encoding.
    """
    if encoding is not None:
        expect_encoding(encoding)
    if not isinstance(corpus, str):
        return _read_path(Path(corpus), encoding)
    if not corpus or "\0" in corpus:
        raise DataError(f"expected the name of a corpus, a file or a folder, got {corpus!r}")
    if corpus == "-":
        return _corpus("stdin", _read_stdin(), encoding, "standard input")
    if "://" in corpus:
        return _read_url(corpus, encoding, on_progress)
    # A shell does not expand the ~ in --corpus=~/book.txt.
    path = Path(os.path.expanduser(corpus))  # noqa: PTH111 - Path.expanduser raises without a home
    known = next((k for k in catalogue if corpus in (k.name, *k.aliases)), None)
    if known is not None:
        data, source = fetch(known, on_progress)
        found = _corpus(known.name, BytesSource(source, data), "utf-8", source)
        note = f"./{corpus} exists too: use ./{corpus} to read it instead"
        return replace(found, notes=(note,)) if os.path.lexists(corpus) else found
    named = data_file(corpus)
    if status_of(path) is None and named is not None and status_of(named) is not None:
        return _corpus(_slug(corpus), file_source(named), encoding, str(named))
    if status_of(path) is None and not path.is_symlink():
        raise _missing(corpus, path, catalogue)
    return _read_path(path, encoding)


def join(corpora: Sequence[Corpus]) -> Corpus:
    """Several texts, read in the same encoding, as one in their order."""
    parts = tuple(part for corpus in corpora for part in corpus.parts)
    found = survey(parts, corpora[0].encoding, lenient=False)
    return replace(
        corpora[0],
        name=f"{corpora[0].name}-and-{len(corpora) - 1}-more",
        sha256=found.sha256,
        characters=found.characters,
        source=f"{corpora[0].source} and {len(corpora) - 1} more",
        notes=(),
        parts=parts,
    )


def _read_path(path: Path, encoding: str | None) -> Corpus:
    status = status_of(path)
    if status is None:
        kind = "a symbolic link to nothing" if path.is_symlink() else "no file or folder"
        raise DataError(f"cannot read {display_path(path)}: there is {kind} of that name")
    if stat.S_ISDIR(status.st_mode):
        return _read_folder(path, encoding)
    whole = path.resolve()
    name = whole.parent.name if path.stem == "input" else path.stem
    return _corpus(_slug(name), file_source(path), encoding, str(path))


def _read_folder(folder: Path, encoding: str | None) -> Corpus:
    """Join the text files below a folder in order of their paths; notes list the skipped files."""
    names: list[str] = []
    skipped: list[str] = []
    for name in sorted(_files_below(folder)):
        try:
            regular = stat.S_ISREG((folder / name).stat().st_mode)
        except OSError:  # a link to nothing, or to itself
            regular = False
        (names if regular else skipped).append(name)
    sources = _in_memory_if_small([file_source(folder / name) for name in names])
    found = survey(sources, encoding, lenient=True)
    skipped = sorted([*skipped, *(names[number] for number in found.skipped)])
    notes = [f"{note} (in {n:,} file{'s' * (n > 1)})" for note, n in found.notes.items()]
    if skipped:
        plural = "s that are" if len(skipped) > 1 else " that is"
        first = ", ".join(display_path(name) for name in skipped[:3])
        more = f" and {len(skipped) - 3:,} more" if len(skipped) > 3 else ""
        notes.append(f"skipped {len(skipped):,} file{plural} not text: {first}{more}")
    if not found.texts:
        why = f" ({notes[0]})" if notes else ""
        raise DataError(
            f"expected text files in the folder {display_path(folder)}, found none{why}"
        )
    return Corpus(
        name=_slug(folder.resolve().name),
        sha256=found.sha256,
        characters=found.characters,
        source=display_path(folder),
        notes=tuple(notes),
        parts=tuple(sources[number] for number in found.texts),
        encoding=encoding,
    )


def _corpus(name: str, source: Source, encoding: str | None, origin: str) -> Corpus:
    """The text of one source."""
    sources = _in_memory_if_small([source])
    found = survey(sources, encoding, lenient=False)
    if not found.characters:
        raise DataError(f"{display_path(origin)} is empty: expected text")
    return Corpus(
        name, found.sha256, found.characters, origin, tuple(found.notes), tuple(sources), encoding
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


def _files_below(folder: Path) -> Iterator[str]:
    """Relative POSIX paths of files; hidden names are skipped, links to folders not entered."""

    def refuse(error: OSError) -> None:
        raise cannot_read(Path(error.filename), error) from None

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield (Path(root) / name).relative_to(folder).as_posix()


def _read_stdin() -> Source:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise DataError("expected text on standard input, but there is no standard input")
    try:
        return buffer_stream(stream, "standard input")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read standard input: {reason(error)}") from None


def _read_url(url: str, encoding: str | None, on_progress: Progress | None) -> Corpus:
    try:
        with tempfile.TemporaryDirectory(prefix="hornbook-") as folder:
            target = Path(folder) / "download"
            download(url, target, on_progress)
            with target.open("rb") as file:
                source = buffer_stream(file, display_path(url))
    except OSError as error:
        raise DataError(
            f"cannot save the download of {display_path(url)}: {reason(error)}"
        ) from None
    except DownloadError as error:
        raise DataError(f"cannot download {display_path(url)}: {error}") from None
    # Not by urllib, which refuses some URLs that fsspec accepts.
    address = PurePosixPath(unquote(re.split(r"[?#]", url.split("://", 1)[1])[0]))
    name = address.parent.name if address.stem == "input" else address.stem
    return _corpus(_slug(name), source, encoding, redacted(url))


def _missing(corpus: str, path: Path, catalogue: Iterable[KnownCorpus]) -> DataError:
    names = [name for known in catalogue for name in (known.name, *known.aliases)]
    data_dir = os.environ.get("HORNBOOK_DATA_DIR")
    if data_dir:
        names += [
            n for n in _names_in(Path(data_dir)) if (Path(data_dir) / n / "input.txt").exists()
        ]
    close = difflib.get_close_matches(corpus.lower(), names, 1)
    if not close:
        near = difflib.get_close_matches(path.name, _names_in(path.parent), 1)
        close = [str(path.with_name(name)) for name in near]
    hint = f" (did you mean {display_path(close[0])}?)" if close else ""
    known_names = ", ".join(known.name for known in catalogue)
    return DataError(
        f"there is no corpus, file or folder {display_path(corpus)}{hint}: "
        f"expected one of {known_names}, or a file, a folder, a URL, or - for standard input"
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
