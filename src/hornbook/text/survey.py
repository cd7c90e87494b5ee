"""What the first reading of a text finds: its hash, its length, which files are text.

What was found of large files is kept in the cache, by their sizes and times of change, so that the
next run need not read them for it again.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from hornbook.storage import cache
from hornbook.text.decoding import NotTextError, decode
from hornbook.text.sources import Stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hornbook.text.sources import Source

FORMAT = 1
# A file changed twice within a tick of the clock looks unchanged the second time ("racy", in git).
_SETTLED_NS = 2 * 10**9


@dataclass(frozen=True)
class Survey:
    """The text that sources make together; ``texts`` and ``skipped`` are numbers of sources.

    ``sha256`` is that of the text in UTF-8; ``notes`` say what was done to how many sources.
    """

    sha256: str
    characters: int
    notes: dict[str, int]
    texts: list[int]
    skipped: list[int]


def joined(sources: Sequence[Source], encoding: str | None) -> Iterator[str]:
    """The texts one after another, in chunks, each text but the last ending its line."""
    ending = "\n"
    for source in sources:
        if ending != "\n":
            yield "\n"
        for text in decode(source, encoding, []):
            yield text
            ending = text[-1]


def beginnings(sources: Sequence[Source], encoding: str | None) -> Iterator[int]:
    """Where in the joined text each source's own begins, in characters."""
    characters, ending = 0, "\n"
    for source in sources:
        characters += ending != "\n"
        yield characters
        for text in decode(source, encoding, []):
            characters += len(text)
            ending = text[-1]


def survey(sources: Sequence[Source], encoding: str | None, *, lenient: bool) -> Survey:
    """Read all sources, or remember what was found of the same large files.

    A source that is not text is skipped if ``lenient``; an empty one always is.
    Raises: NotTextError unless lenient; DataError for what cannot be read.
    """
    signatures = [source.signature for source in sources if isinstance(source, Stored)]
    if not signatures or len(signatures) < len(sources):
        return _read(sources, encoding, lenient=lenient)
    places = [str(source.path.resolve()) for source in sources if isinstance(source, Stored)]
    key = json.dumps([FORMAT, encoding, lenient, places, signatures])
    folder = cache.cache_folder() / "surveys" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if cache.is_sound(folder):
        with suppress(OSError, ValueError, TypeError):
            return Survey(**json.loads((folder / "survey.json").read_bytes()))
    found = _read(sources, encoding, lenient=lenient)
    if max(time_ns for *_, changed, touched in signatures for time_ns in (changed, touched)) < (
        time.time_ns() - _SETTLED_NS
    ):
        with suppress(OSError), cache.fill(folder) as place:
            (place / "survey.json").write_text(json.dumps(asdict(found)))
    return found


def _read(sources: Sequence[Source], encoding: str | None, *, lenient: bool) -> Survey:
    texts: list[int] = []
    skipped: list[int] = []
    notes: dict[str, int] = {}
    characters, digest, ending = 0, hashlib.sha256(), "\n"
    for number, source in enumerate(sources):
        told: list[str] = []
        before = characters, digest.copy(), ending  # to go back to, should it be no text
        start = "" if ending == "\n" else "\n"
        try:
            for text in decode(source, encoding, told):
                digest.update((start + text).encode())
                characters += len(start + text)
                start, ending = "", text[-1]
        except NotTextError:
            if not lenient:
                raise
            characters, digest, ending = before
            skipped.append(number)
            continue
        texts += [number] if characters > before[0] else []
        notes |= {note: notes.get(note, 0) + 1 for note in told}
    return Survey(digest.hexdigest(), characters, notes, texts, skipped)
