"""Reads any text (a named corpus, a file, a folder, standard input, a URL), or says why not.

A text can be larger than memory: it is read a chunk at a time, from its files, as often as it is
needed. Small ones are held, and cannot change under their reader; of a large one a change is told.
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

from hornbook.errors import DataError, reason, redacted, shown
from hornbook.text.corpora import CATALOGUE, DEFAULT, DownloadError, data_file, download, fetch
from hornbook.text.decoding import expect_encoding
from hornbook.text.sources import (
    MOST_HELD_BYTES,
    Held,
    Source,
    Stored,
    cannot_read,
    held,
    kept,
    status_of,
    stored,
)
from hornbook.text.survey import beginnings, joined, survey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hornbook.text.corpora import KnownCorpus, Progress


@dataclass(frozen=True)
class Corpus:
    """A text and where it came from; ``notes`` are things its reader should be told.

    ``sha256`` is that of the text in UTF-8, ``source`` what messages call it.
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
        """The text, a chunk at a time. Raises: DataError if a file has changed meanwhile."""
        return joined(self.parts, self.encoding)

    def files(self) -> list[tuple[int, str]]:
        """Where in the text each file begins, and what it is called within the corpus.

        A folder's files go by their paths within it. Raises: DataError if a file has changed.
        """
        if len(self.parts) < 2:
            return [(0, self.source)]
        names = (part.shown.removeprefix(f"{self.source}{os.sep}") for part in self.parts)
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

    Text is UTF-8, or what its byte order mark says, or ``encoding``; line ends stay as they are.
    ``on_progress`` is told bytes done and bytes in all (None if unknown) while downloading,
    from another thread.
    Raises: DataError if there is no text to be had; ConfigError for an unknown encoding.
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
    # A shell leaves the ~ of --corpus=~/book.txt alone.
    path = Path(os.path.expanduser(corpus))  # noqa: PTH111 - Path.expanduser raises without a home
    known = next((k for k in catalogue if corpus in (k.name, *k.aliases)), None)
    if known is not None:
        data, source = fetch(known, on_progress)
        found = _corpus(known.name, Held(source, data), "utf-8", source)
        note = f"./{corpus} is here too: say ./{corpus} to read that instead"
        return replace(found, notes=(note,)) if os.path.lexists(corpus) else found
    named = data_file(corpus)
    if status_of(path) is None and named is not None and status_of(named) is not None:
        return _corpus(_slug(corpus), stored(named), encoding, str(named))
    if status_of(path) is None and not path.is_symlink():
        raise _missing(corpus, path, catalogue)
    return _read_path(path, encoding)


def _read_path(path: Path, encoding: str | None) -> Corpus:
    status = status_of(path)
    if status is None:
        kind = "a symbolic link to nothing" if path.is_symlink() else "no file or folder"
        raise DataError(f"cannot read {shown(path)}: there is {kind} of that name")
    if stat.S_ISDIR(status.st_mode):
        return _read_folder(path, encoding)
    whole = path.resolve()
    name = whole.parent.name if path.stem == "input" else path.stem
    return _corpus(_slug(name), stored(path), encoding, str(path))


def _read_folder(folder: Path, encoding: str | None) -> Corpus:
    """Join the text files below a folder, in order of their paths; name what was left out."""
    names: list[str] = []
    skipped: list[str] = []
    for name in sorted(_files_below(folder)):
        try:
            regular = stat.S_ISREG((folder / name).stat().st_mode)
        except OSError:  # a link to nothing, or to itself
            regular = False
        (names if regular else skipped).append(name)
    sources = _held_if_small([stored(folder / name) for name in names])
    found = survey(sources, encoding, lenient=True)
    skipped = sorted([*skipped, *(names[number] for number in found.skipped)])
    told = [f"{note} (in {n:,} file{'s' * (n > 1)})" for note, n in found.notes.items()]
    if skipped:
        plural = "s that are" if len(skipped) > 1 else " that is"
        first = ", ".join(shown(name) for name in skipped[:3])
        more = f" and {len(skipped) - 3:,} more" if len(skipped) > 3 else ""
        told.append(f"skipped {len(skipped):,} file{plural} not text: {first}{more}")
    if not found.texts:
        why = f" ({told[0]})" if told else ""
        raise DataError(f"expected text files in the folder {shown(folder)}, found none{why}")
    return Corpus(
        name=_slug(folder.resolve().name),
        sha256=found.sha256,
        characters=found.characters,
        source=shown(folder),
        notes=tuple(told),
        parts=tuple(sources[number] for number in found.texts),
        encoding=encoding,
    )


def _corpus(name: str, source: Source, encoding: str | None, called: str) -> Corpus:
    """The text of one source."""
    sources = _held_if_small([source])
    found = survey(sources, encoding, lenient=False)
    if not found.characters:
        raise DataError(f"{shown(called)} is empty: expected text")
    return Corpus(
        name, found.sha256, found.characters, called, tuple(found.notes), tuple(sources), encoding
    )


def _held_if_small(sources: Sequence[Source]) -> list[Source]:
    """The files read into memory, unless all together are large."""
    size = sum(source.signature[0] for source in sources if isinstance(source, Stored))
    return [
        held(source) if isinstance(source, Stored) and size <= MOST_HELD_BYTES else source
        for source in sources
    ]


def _files_below(folder: Path) -> Iterator[str]:
    """Relative POSIX paths of what is not a folder; hidden names left out, links not entered."""

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
        return kept(stream, "standard input")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read standard input: {reason(error)}") from None


def _read_url(url: str, encoding: str | None, on_progress: Progress | None) -> Corpus:
    try:
        with tempfile.TemporaryDirectory(prefix="hornbook-") as folder:
            target = Path(folder) / "download"
            download(url, target, on_progress)
            with target.open("rb") as file:
                source = kept(file, shown(url))
    except OSError as error:
        raise DataError(f"cannot keep the download of {shown(url)}: {reason(error)}") from None
    except DownloadError as error:
        raise DataError(f"cannot download {shown(url)}: {error}") from None
    # Cut by hand: a URL that urllib would refuse may still be one of fsspec's.
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
    hint = f" (did you mean {shown(close[0])}?)" if close else ""
    known_names = ", ".join(known.name for known in catalogue)
    return DataError(
        f"there is no corpus, file or folder {shown(corpus)}{hint}: "
        f"expected one of {known_names}, or a file, a folder, a URL, or - for standard input"
    )


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(islice((entry.name for entry in folder.iterdir()), 1000))
    except OSError:
        return []


def _slug(name: str) -> str:
    """A name that is safe as a folder's, its letters kept whatever their script."""
    kept = "".join(
        c if c.isalnum() or c in "._-" or unicodedata.category(c).startswith("M") else "-"
        for c in unicodedata.normalize("NFC", name)
    )
    return re.sub("--+", "-", kept).strip("._-")[:60].rstrip("._-") or "text"
