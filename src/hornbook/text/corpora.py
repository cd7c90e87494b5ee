"""The corpora known by name: where each is on this machine, or how to download it."""

import hashlib
import importlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from hornbook.errors import DataError, display_path, reason
from hornbook.language import msg
from hornbook.storage.cache import cache_folder
from hornbook.text.sources import read_bytes, status_of

Progress: TypeAlias = Callable[[int, int | None], None]


@dataclass(frozen=True)
class KnownCorpus:
    """A corpus known by name; ``location`` is where a copy is on this machine, or None."""

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
        description=msg("The help topics of the Python language, which come with Python itself"),
    ),
    KnownCorpus(
        name="shakespeare",
        aliases=("tinyshakespeare",),
        description=msg("A third of Shakespeare's plays, the corpus of Karpathy's lecture"),
        characters=1_115_394,
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    ),
    KnownCorpus(
        name="korean-novels",
        description=msg(
            "Korean prose of the 1920s-30s, half of the novels of the KoCoNovel corpus, from "
            "Wikisource; CC BY-SA 4.0"
        ),
        characters=312_604,
        sha256="43c92891392ba23ae1aff10144b491411b02b60208c54bed2576fc104881872a",
    ),
)

DEFAULT = "python-docs"
_EMBEDDED_MODULE = "pydoc_data.topics"
_RETRY_WAITS_SECONDS = (0.2, 0.5, 1.0)
_CONNECT_SECONDS = 10
_READ_SECONDS = 30
_FINAL_ERRORS = (FileNotFoundError, PermissionError, ImportError, ValueError)


def known_corpora(catalogue: Sequence[KnownCorpus] = CATALOGUE) -> list[KnownCorpus]:
    """The corpora known by name, each with its location on this machine."""
    found: list[KnownCorpus] = []
    for known in catalogue:
        if known.name == DEFAULT:
            text = _embedded_text()
            here = None if text is None else _EMBEDDED_MODULE
            found.append(replace(known, characters=len(text or "") or None, location=here))
        else:
            here = next((str(path) for path in _copies(known) if status_of(path)), None)
            found.append(replace(known, location=here))
    return found


def fetch(known: KnownCorpus, on_progress: Progress | None = None) -> tuple[bytes, str]:
    """The UTF-8 bytes of a known corpus and their location; downloaded if needed, hash checked.

    Raises: DataError with what to do instead.
    """
    if known.name == DEFAULT:
        text = _embedded_text()
        if text is None:
            raise DataError(
                msg(
                    "this Python comes without {module}, the text of {name}: use "
                    "shakespeare or a file of your own",
                    module=_EMBEDDED_MODULE,
                    name=DEFAULT,
                )
            )
        return text.encode(), _EMBEDDED_MODULE
    copies = _copies(known)
    cached = copies[-1]
    for path in filter(status_of, copies):
        data = read_bytes(path)
        sha256 = hashlib.sha256(data).hexdigest()
        if known.sha256 in (None, sha256):
            return data, str(path)
        if path != cached or known.url is None:
            raise DataError(
                msg(
                    "{path} is not {known}: expected sha256 {sha256}, got {found}; replace or "
                    "remove the file",
                    path=display_path(path),
                    known=known.name,
                    sha256=known.sha256,
                    found=sha256,
                )
            )
    remedy = msg("put it at {path}", path=display_path(copies[0]))
    if known.url is None:
        raise DataError(
            msg(
                "{known} is not on this machine and cannot be downloaded: {remedy}",
                known=known.name,
                remedy=remedy,
            )
        )
    try:
        data = _download_into(cached, known, on_progress)
    except OSError as error:
        raise DataError(
            msg(
                "cannot save {known} in {parent} ({error}): set HORNBOOK_CACHE_DIR to a "
                "writable folder",
                known=known.name,
                parent=display_path(cached.parent),
                error=reason(error),
            )
        ) from None
    except DownloadError as error:
        raise DataError(
            msg(
                "cannot download {known} ({error}): get {url} and {remedy}",
                known=known.name,
                error=error,
                url=known.url,
                remedy=remedy,
            )
        ) from None
    return data, str(cached)


def _download_into(cached: Path, known: KnownCorpus, on_progress: Progress | None) -> bytes:
    """Download a known corpus; the file appears only if it is complete and has the right hash."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=cached.parent) as folder:
        target = Path(folder) / cached.name
        download(known.url or "", target, on_progress)
        data = read_bytes(target)
        if known.sha256 not in (None, hashlib.sha256(data).hexdigest()):
            raise DownloadError(
                msg("the download does not have the sha256 {sha256}", sha256=known.sha256)
            )
        with target.open("rb+") as file:
            os.fsync(file.fileno())
        target.replace(cached)
    return data


class DownloadError(Exception):
    """Why a download failed; callers add what was wanted and what to do instead."""


def download(url: str, target: Path, on_progress: Progress | None) -> None:
    """Download a URL into a file, with retries where they may help. Raises: DownloadError."""
    # fsspec's chains and references would open further addresses, named in a file.
    if "::" in url or url.startswith("reference:"):
        raise DownloadError(msg("expected one plain address, without ::"))
    from fsspec.callbacks import Callback
    from fsspec.core import url_to_fs

    options: dict[str, object] = {}
    if url.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
        options["client_kwargs"] = {"trust_env": True, "timeout": timeout}

    def report(size: int | None, value: int, **_: object) -> None:
        if on_progress is not None:
            on_progress(value, size)

    for wait_seconds in (*_RETRY_WAITS_SECONDS, None):
        try:
            filesystem, path = url_to_fs(url, **options)
            filesystem.get_file(path, str(target), callback=Callback(hooks={"report": report}))
        except Exception as error:  # noqa: BLE001 - each fsspec back end raises its own types
            refused = 400 <= (getattr(error, "status", None) or 0) < 500
            if refused or wait_seconds is None or isinstance(error, _FINAL_ERRORS):
                missing = isinstance(error, FileNotFoundError)
                why = msg("there is nothing at that address") if missing else reason(error)
                raise DownloadError(why) from None
            time.sleep(wait_seconds)
        else:
            if target.is_file():
                return
            raise DownloadError(msg("it is a folder: copy it to this machine and give its path"))


def _embedded_text() -> str | None:
    try:
        topics: dict[str, str] = importlib.import_module(_EMBEDDED_MODULE).topics
    except ImportError:
        return None
    return "\n".join(topics[name] for name in sorted(topics))


def data_file(name: str) -> Path | None:
    """``$HORNBOOK_DATA_DIR/<name>/input.txt``; None without the variable or for an unsafe name."""
    data_dir = os.environ.get("HORNBOOK_DATA_DIR")
    if not data_dir or not name or name.startswith(".") or re.search(r"[/\\:]", name):
        return None
    return Path(data_dir) / name / "input.txt"


def _copies(known: KnownCorpus) -> list[Path]:
    """Where a copy of a known corpus can be: in the data folder, and in the cache, the last."""
    named = [p for name in (known.name, *known.aliases) if (p := data_file(name)) is not None]
    return [*named, cache_folder() / "corpora" / known.name / "input.txt"]
