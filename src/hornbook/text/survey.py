"""The first pass over a text: its hash, its length, and which files are text.

Results for large files are cached under the files' sizes and times of change, so that the next run
does not repeat the pass.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from hornbook.storage import cache
from hornbook.text.decoding import NotTextError, decode
from hornbook.text.sources import FileSource, Source

FORMAT = 2
# A second change within one tick of the clock leaves the times as they were (git: "racy").
_CLOCK_MARGIN_NS = 2 * 10**9


@dataclass(frozen=True)
class Survey:
    """Facts about the joined text of sources; ``texts`` and ``skipped`` are indices of sources.

    ``sha256`` is the hash of the text in UTF-8; ``notes`` maps each note to a number of sources;
    ``offsets`` says where each of ``texts`` begins in the joined text, in characters.
    """

    sha256: str
    characters: int
    notes: dict[str, int]
    texts: list[int]
    skipped: list[int]
    offsets: list[int]


def joined(sources: Sequence[Source], encoding: str | None) -> Iterator[str]:
    """The texts joined, in chunks; a newline is added between texts where one is missing."""
    ending = "\n"
    for source in sources:
        if ending != "\n":
            yield "\n"
        for text in decode(source, encoding, []):
            yield text
            ending = text[-1]


def survey(sources: Sequence[Source], encoding: str | None, *, lenient: bool) -> Survey:
    """Read all sources, or take the cached result if all are large files that have not changed.

    Empty sources are skipped, and if ``lenient`` those that are not text.
    Raises: NotTextError unless lenient; DataError if a source cannot be read.
    """
    files = [source for source in sources if isinstance(source, FileSource)]
    if not files or len(files) < len(sources):
        return _read(sources, encoding, lenient=lenient)
    signatures = [file.signature for file in files]
    paths = [str(file.path.resolve()) for file in files]
    key = json.dumps([FORMAT, encoding, lenient, paths, signatures])
    folder = cache.cache_folder() / "surveys" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if cache.is_sound(folder):
        with suppress(OSError, ValueError, TypeError):
            return Survey(**json.loads((folder / "survey.json").read_bytes()))
    found = _read(sources, encoding, lenient=lenient)
    if max(max(times[-2:]) for times in signatures) < time.time_ns() - _CLOCK_MARGIN_NS:
        with suppress(OSError), cache.fill(folder) as place:
            (place / "survey.json").write_text(json.dumps(asdict(found)))
    return found


def _read(sources: Sequence[Source], encoding: str | None, *, lenient: bool) -> Survey:
    texts: dict[int, int] = {}
    skipped: list[int] = []
    notes: dict[str, int] = {}
    characters, digest, ending = 0, hashlib.sha256(), "\n"
    for index, source in enumerate(sources):
        found: list[str] = []
        before = characters, digest.copy(), ending  # restored if the source is not text
        start = "" if ending == "\n" else "\n"
        try:
            for text in decode(source, encoding, found):
                digest.update((start + text).encode())
                characters += len(start + text)
                start, ending = "", text[-1]
        except NotTextError:
            if not lenient:
                raise
            characters, digest, ending = before
            skipped.append(index)
            continue
        if characters > before[0]:
            texts[index] = before[0] + (before[2] != "\n")
        notes |= {note: notes.get(note, 0) + 1 for note in found}
    return Survey(digest.hexdigest(), characters, notes, list(texts), skipped, list(texts.values()))
