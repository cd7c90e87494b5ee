"""Reads any text (a named corpus, a file, a folder, standard input, a URL), or says why not."""

from __future__ import annotations

import codecs
import difflib
import hashlib
import importlib
import os
import re
import stat
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from hornbook.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Corpus:
    """A text and where it came from; ``notes`` are things its reader should be told.

    ``files`` is for the text of a folder: where in it each file begins, and the file's name.
    """

    name: str
    text: str
    sha256: str
    source: str
    notes: tuple[str, ...] = ()
    files: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class KnownCorpus:
    """A corpus that goes by a name; ``location`` is where a copy lies now, or None."""

    name: str
    description: str
    aliases: tuple[str, ...] = ()
    characters: int | None = None
    sha256: str | None = None
    url: str | None = None
    location: str | None = None


CATALOGUE: Final = (
    KnownCorpus(
        name="python-docs",
        description="The help topics of the Python language, which come with Python itself",
    ),
    KnownCorpus(
        name="shakespeare",
        aliases=("tinyshakespeare",),
        description="A third of Shakespeare's plays, the corpus of Karpathy's lecture",
        characters=1_115_394,
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    ),
    KnownCorpus(
        name="korean-novels",
        description="Korean prose of the 1920s-30s, half of the novels of the KoCoNovel corpus, "
        "from Wikisource; CC BY-SA 4.0",
        characters=312_604,
        sha256="43c92891392ba23ae1aff10144b491411b02b60208c54bed2576fc104881872a",
    ),
)

_EMBEDDED = "python-docs"
_EMBEDDED_MODULE = "pydoc_data.topics"
_RETRY_WAITS_SECONDS = (0.2, 0.5, 1.0)
_CONNECT_TIMEOUT_SECONDS = 10
_READ_TIMEOUT_SECONDS = 30
# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def known_corpora(catalogue: Sequence[KnownCorpus] = CATALOGUE) -> list[KnownCorpus]:
    """The corpora that can be asked for by name, each with where it lies on this machine."""
    found: list[KnownCorpus] = []
    for known in catalogue:
        if known.name == _EMBEDDED:
            text = _embedded_text()
            here = None if text is None else _EMBEDDED_MODULE
            found.append(replace(known, characters=len(text or "") or None, location=here))
        else:
            places = [str(p) for p in (*_data_copies(known), _cached_copy(known)) if _stat(p)]
            found.append(replace(known, location=places[0] if places else None))
    return found


def load_text(corpus: str = _EMBEDDED, *, encoding: str | None = None) -> str:
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
        _expect_encoding(encoding)
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
        found = _read_known(known, on_progress)
        note = f"./{corpus} is here too: say ./{corpus} to read that instead"
        return replace(found, notes=(note,)) if os.path.lexists(corpus) else found
    named = _data_file(corpus)
    if _stat(path) is None and named is not None and _stat(named) is not None:
        return _corpus(_slug(corpus), _read_file(named), encoding, str(named))
    if _stat(path) is None and not path.is_symlink():
        raise _missing(corpus, path, catalogue)
    return _read_path(path, encoding)


def _read_path(path: Path, encoding: str | None) -> Corpus:
    shown = _shown(path)
    status = _stat(path)
    if status is None:
        kind = "a symbolic link to nothing" if path.is_symlink() else "no file or folder"
        raise DataError(f"cannot read {shown}: there is {kind} of that name")
    if stat.S_ISDIR(status.st_mode):
        return _read_folder(path, encoding)
    whole = path.resolve()
    name = whole.parent.name if path.stem == "input" else path.stem
    return _corpus(_slug(name), _read_file(path), encoding, shown)


def _read_folder(folder: Path, encoding: str | None) -> Corpus:
    """Join the text files below a folder, in order of their paths; name what was left out."""
    texts: list[str] = []
    names: list[str] = []
    skipped: list[str] = []
    notes: Counter[str] = Counter()
    for name in sorted(_files_below(folder)):
        path = folder / name
        try:
            status = path.stat()
        except OSError:  # a link to nothing, or to itself
            status = None
        if status is None or not stat.S_ISREG(status.st_mode):
            skipped.append(name)
            continue
        data = _read_file(path)
        try:
            text, told = _decode(data, _shown(path), encoding)
        except DataError:
            skipped.append(name)
        else:
            texts += [text] if text else []
            names += [name] if text else []
            notes.update(told)
    told = [f"{note} (in {n:,} file{'s' * (n > 1)})" for note, n in notes.items()]
    if skipped:
        plural = "s that are" if len(skipped) > 1 else " that is"
        some = ", ".join(_shown(name) for name in skipped[:3])
        more = f" and {len(skipped) - 3:,} more" if len(skipped) > 3 else ""
        told.append(f"skipped {len(skipped):,} file{plural} not text: {some}{more}")
    if not texts:
        why = f" ({told[0]})" if told else ""
        raise DataError(f"expected text files in the folder {_shown(folder)}, found none{why}")
    texts[:-1] = [text if text.endswith("\n") else text + "\n" for text in texts[:-1]]
    starts = accumulate(map(len, texts[:-1]), initial=0)
    found = _whole(_slug(folder.resolve().name), "".join(texts), _shown(folder), told)
    return replace(found, files=tuple(zip(starts, names, strict=True)))


def _files_below(folder: Path) -> Iterator[str]:
    """Relative POSIX paths of what is not a folder; hidden names left out, links not entered."""

    def refuse(error: OSError) -> None:
        raise _cannot_read(Path(error.filename), error) from None

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield (Path(root) / name).relative_to(folder).as_posix()


def _read_file(path: Path) -> bytes:
    """The bytes of a regular file. Raises: DataError for all that is not one."""
    status = _stat(path)
    if status is None:
        raise DataError(f"cannot read {_shown(path)}: it is not there any more")
    if stat.S_ISFIFO(status.st_mode):
        # Opening a pipe that nobody writes to would wait for ever.
        raise DataError(f"{_shown(path)} is a pipe, not a file: pipe it into standard input with -")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"expected a file of text, but {_shown(path)} is a device or a socket")
    try:
        return path.read_bytes()
    except OSError as error:
        raise _cannot_read(path, error) from None


def _read_stdin() -> bytes:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise DataError("expected text on standard input, but there is no standard input")
    try:
        return stream.read()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read standard input: {_reason(error)}") from None


def _read_url(url: str, encoding: str | None, on_progress: Progress | None) -> Corpus:
    try:
        with tempfile.TemporaryDirectory(prefix="hornbook-") as folder:
            target = Path(folder) / "download"
            _download(url, target, on_progress)
            data = _read_file(target)
    except OSError as error:
        raise DataError(f"cannot keep the download of {_shown(url)}: {_reason(error)}") from None
    except _DownloadError as error:
        raise DataError(f"cannot download {_shown(url)}: {error}") from None
    # Cut by hand: a URL that urllib would refuse may still be one of fsspec's.
    address = PurePosixPath(unquote(re.split(r"[?#]", url.split("://", 1)[1])[0]))
    name = address.parent.name if address.stem == "input" else address.stem
    return _corpus(_slug(name), data, encoding, url)


def _read_known(known: KnownCorpus, on_progress: Progress | None) -> Corpus:
    """A known corpus from the data folder, the cache or the network, its hash checked."""
    if known.name == _EMBEDDED:
        text = _embedded_text()
        if text is None:
            raise DataError(
                f"this Python comes without {_EMBEDDED_MODULE}, the text of {_EMBEDDED}: "
                "take shakespeare, or a file of your own"
            )
        return _whole(known.name, text, _EMBEDDED_MODULE, [])
    cached = _cached_copy(known)
    for path in (*_data_copies(known), cached):
        if _stat(path) is None:
            continue
        data = _read_file(path)
        if _is_intact(known, data):
            return _corpus(known.name, data, "utf-8", str(path))
        if path != cached or known.url is None:
            raise DataError(
                f"{_shown(path)} is not {known.name}: expected sha256 {known.sha256}, got "
                f"{hashlib.sha256(data).hexdigest()}; replace the file, or remove it"
            )
    remedy = f"put it at {_shown(next(_data_copies(known), cached))}"
    if known.url is None:
        raise DataError(f"{known.name} is not on this machine and cannot be downloaded: {remedy}")
    try:
        data = _download_into(cached, known, on_progress)
    except OSError as error:
        raise DataError(
            f"cannot keep {known.name} in {_shown(cached.parent)} ({_reason(error)}): "
            "set HORNBOOK_CACHE_DIR to a folder that can be written"
        ) from None
    except _DownloadError as error:
        raise DataError(
            f"cannot download {known.name} ({error}): get {known.url} and {remedy}"
        ) from None
    return _corpus(known.name, data, "utf-8", str(cached))


def _is_intact(known: KnownCorpus, data: bytes) -> bool:
    return known.sha256 in (None, hashlib.sha256(data).hexdigest())


def _download_into(cached: Path, known: KnownCorpus, on_progress: Progress | None) -> bytes:
    """Download a known corpus; its file appears whole and right, or not at all."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=cached.parent) as folder:
        target = Path(folder) / cached.name
        _download(known.url or "", target, on_progress)
        data = _read_file(target)
        if not _is_intact(known, data):
            raise _DownloadError(f"what came has not the sha256 {known.sha256}")
        with target.open("rb+") as file:
            os.fsync(file.fileno())
        target.replace(cached)
    return data


class _DownloadError(Exception):
    """Why a download failed; its callers know what was wanted, and what else to try."""


def _download(url: str, target: Path, on_progress: Progress | None) -> None:
    """Fetch a URL into a file, trying again where that may help. Raises: _DownloadError."""
    from fsspec.callbacks import Callback
    from fsspec.core import url_to_fs

    def report(size: int | None, value: int, **_: object) -> None:
        if on_progress is not None:
            on_progress(value, size)

    for wait_seconds in (*_RETRY_WAITS_SECONDS, None):
        try:
            filesystem, path = url_to_fs(url, **_http_options(url))
            filesystem.get_file(path, str(target), callback=Callback(hooks={"report": report}))
        except Exception as error:  # noqa: BLE001 - every back end of fsspec raises its own kinds
            final = isinstance(
                error, FileNotFoundError | PermissionError | ImportError | ValueError
            )
            refused = 400 <= (getattr(error, "status", None) or 0) < 500
            if final or refused or wait_seconds is None:
                missing = isinstance(error, FileNotFoundError)
                reason = "there is nothing at that address" if missing else _reason(error)
                raise _DownloadError(reason) from None
            time.sleep(wait_seconds)
        else:
            if target.is_file():
                return
            raise _DownloadError("it is a folder; copy it here and name that")


def _http_options(url: str) -> dict[str, object]:
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(
        total=None, connect=_CONNECT_TIMEOUT_SECONDS, sock_read=_READ_TIMEOUT_SECONDS
    )
    return {"client_kwargs": {"trust_env": True, "timeout": timeout}}


def _embedded_text() -> str | None:
    try:
        topics: dict[str, str] = importlib.import_module(_EMBEDDED_MODULE).topics
    except ImportError:
        return None
    return "\n".join(topics[name] for name in sorted(topics))


def _data_file(name: str) -> Path | None:
    """``input.txt`` in the data folder of a name, where there is one and the name stays in it."""
    data_dir = os.environ.get("HORNBOOK_DATA_DIR")
    if not data_dir or not name or name.startswith(".") or re.search(r"[/\\:]", name):
        return None
    return Path(data_dir) / name / "input.txt"


def _data_copies(known: KnownCorpus) -> Iterator[Path]:
    return (p for name in (known.name, *known.aliases) if (p := _data_file(name)) is not None)


def _cached_copy(known: KnownCorpus) -> Path:
    return cache_folder() / "corpora" / known.name / "input.txt"


def cache_folder() -> Path:
    """Where downloads and token arrays are kept: $HORNBOOK_CACHE_DIR, or the user's cache."""
    from platformdirs import user_cache_path

    named = os.environ.get("HORNBOOK_CACHE_DIR")
    return Path(named) if named else user_cache_path("hornbook")


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
    hint = f" (did you mean {_shown(close[0])}?)" if close else ""
    known_names = ", ".join(known.name for known in catalogue)
    return DataError(
        f"there is no corpus, file or folder {_shown(corpus)}{hint}: "
        f"expected one of {known_names}, or a file, a folder, a URL, or - for standard input"
    )


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(islice((entry.name for entry in folder.iterdir()), 1000))
    except OSError:
        return []


def _stat(path: Path) -> os.stat_result | None:
    """What a path leads to, or None for nothing. Raises: DataError where that cannot be told."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _cannot_read(path, error) from None


def _corpus(name: str, data: bytes, encoding: str | None, source: str) -> Corpus:
    text, notes = _decode(data, _shown(source), encoding)
    return _whole(name, text, source, notes)


def _whole(name: str, text: str, source: str, notes: Iterable[str]) -> Corpus:
    if not text:
        raise DataError(f"{_shown(source)} is empty: expected text")
    return Corpus(name, text, hashlib.sha256(text.encode()).hexdigest(), source, tuple(notes))


def _decode(data: bytes, shown: str, encoding: str | None) -> tuple[str, list[str]]:
    """Text and notes from bytes: by the encoding, else the byte order mark, else as UTF-8."""
    notes: list[str] = []
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
    if encoding is None and marked is not None:
        notes.append(f"read as {marked} (by its byte order mark)")
    try:
        text = data.decode(encoding or marked or "utf-8")
        text.encode()  # UTF-7 and escapes can spell half a surrogate pair
    except UnicodeError as error:
        raise DataError(_undecodable(data, shown, encoding or marked or "UTF-8", error)) from None
    if text.startswith("\ufeff"):
        text = text[1:]
        notes.append("removed a byte order mark")
    if "\0" in text:
        raise DataError(
            f"{shown} holds a NUL character at offset {text.index(chr(0)):,}: it is not text, or "
            "it is UTF-16 without its mark (then say --encoding utf-16-le)"
        )
    return text, notes


def _undecodable(data: bytes, shown: str, encoding: str, error: UnicodeError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"{shown} read as {encoding} holds half a surrogate pair at offset {error.start:,}"
    if not isinstance(error, UnicodeDecodeError):
        return f"{shown} is not {encoding}: {_reason(error)}"
    bad = data[error.start : error.start + 1].hex()
    place = f"byte 0x{bad} at offset {error.start:,}"
    guess = _likely_encoding(data, error.start)
    hint = f"it looks like {guess}: say --encoding {guess}" if guess else "is it text at all?"
    if guess is None and b"\0" not in data:
        hint = "say which it is with --encoding NAME"
    return f"{shown} is not {encoding} text, by {place}; {hint}"


def _likely_encoding(data: bytes, near: int) -> str | None:
    """The guess of charset-normalizer, from the bytes around a place, if all the bytes fit it."""
    if b"\0" in data:
        return None
    from charset_normalizer import from_bytes

    best = from_bytes(data[max(0, near - 16_384) : near + 16_384]).best()
    for guess in ("utf-8", best.encoding if best is not None else "utf-8"):
        try:
            data.decode(guess)
        except UnicodeError:
            continue
        return guess
    return None


def _expect_encoding(encoding: str) -> None:
    try:
        b"a".decode(encoding if encoding.isascii() else "?")
    except UnicodeError:
        return  # known, but a lone byte means nothing in it
    except (LookupError, ValueError):
        from encodings.aliases import aliases

        names = {*aliases, *aliases.values()} - {encoding}  # a codec of bytes, such as hex
        close = difflib.get_close_matches(encoding.lower(), names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(
            f"expected the name of an encoding, such as utf-8 or cp949; got {encoding!r}{hint}"
        ) from None


def _slug(name: str) -> str:
    """A name that is safe as a folder's, its letters kept whatever their script."""
    kept = "".join(
        c if c.isalnum() or c in "._-" or unicodedata.category(c).startswith("M") else "-"
        for c in unicodedata.normalize("NFC", name)
    )
    return re.sub("--+", "-", kept).strip("._-")[:60].rstrip("._-") or "text"


def _cannot_read(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot read {_shown(path)}: {_reason(error)}")


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def _shown(path: str | os.PathLike[str]) -> str:
    """A path for a message of one line: escaped where it could break it, shortened if long."""
    text = os.fspath(path)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 200 else f"{text[:150]}...{text[-45:]}"
