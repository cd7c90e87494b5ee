"""The first pass over a text: its hash, its length, and which files are text.

Results for large files are cached under the files' sizes and times of change, so that the next run
does not repeat the pass.
"""

import hashlib
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import asdict, dataclass, replace

from hornbook.language import msg
from hornbook.storage import cache
from hornbook.text import conversations
from hornbook.text.decoding import AUTO, REPLACING, NotTextError, decode
from hornbook.text.fields import SEPARATOR, documents
from hornbook.text.formats import structure
from hornbook.text.sources import FileSource, Source

FORMAT = 3
# A second change within one tick of the clock leaves the times as they were (git: "racy").
_CLOCK_MARGIN_NS = 2 * 10**9
# Documents begin at no more places than these that a survey keeps; of more it keeps every second.
_MOST_BOUNDARIES = 8192
# What a remark on a text's structure reads, in characters.
_BEGINNING = 1 << 16


@dataclass(frozen=True)
class Reading:
    """How a text is read: its encoding, the field of its records, or as conversations."""

    encoding: str | None = None
    field: str | None = None
    conversations: bool = False

    @property
    def of_documents(self) -> bool:
        """Whether the text is documents with a SEPARATOR between them."""
        return self.field is not None or self.conversations


@dataclass(frozen=True)
class Part:
    """A source, and how its text is read."""

    source: Source
    reading: Reading

    def chunks(self, notes: list[str]) -> Iterator[str]:
        """The text in non-empty chunks; notes for the user are appended to ``notes``.

        Raises: NotTextError; DataError if the source cannot be read.
        """
        encoding, field = self.reading.encoding, self.reading.field
        if self.reading.conversations:
            return conversations.documents(self.source, encoding, notes)
        if field is not None:
            return documents(self.source, encoding, field, notes)
        return decode(self.source, encoding, notes)


@dataclass(frozen=True)
class Survey:
    """Facts about the joined text of parts; ``texts`` and ``skipped`` are indices of parts.

    ``sha256`` is the hash of the text in UTF-8; ``notes`` maps each note to a number of parts;
    ``offsets`` says where each of ``texts`` begins in the joined text, in characters, and
    ``boundaries`` where documents do. Of ``skipped``, ``likely`` has the likely encoding, if known,
    and ``reasons`` why. ``encodings`` are those of ``texts``, found where "auto" was asked for.
    """

    sha256: str
    characters: int
    notes: dict[str, int]
    texts: list[int]
    skipped: list[int]
    offsets: list[int]
    boundaries: list[int]
    encodings: list[str | None]
    likely: list[str | None]
    reasons: list[str]


def joined(parts: Sequence[Part]) -> Iterator[str]:
    """The texts joined, in chunks; documents by a SEPARATOR, other texts by a missing newline."""
    ending = ""
    for part in parts:
        gap = _gap(ending, part)
        if gap:
            yield gap
        for text in part.chunks([]):
            yield text
            ending = text[-1]


def _gap(ending: str, part: Part) -> str:
    """What stands between a text with this ending, empty for none, and the next."""
    if part.reading.of_documents:
        return SEPARATOR if ending else ""
    return "" if ending in ("", "\n") else "\n"


def survey(parts: Sequence[Part], *, lenient: bool) -> Survey:
    """Read all parts, or take the cached result if all are large files that have not changed.

    Empty ones are skipped, and if ``lenient`` those that are not text.
    Raises: NotTextError unless lenient; DataError if a source cannot be read.
    """
    files = [part.source for part in parts if isinstance(part.source, FileSource)]
    if not files or len(files) < len(parts):
        return _read(parts, lenient=lenient)
    signatures = [file.signature for file in files]
    paths = [str(file.path.resolve()) for file in files]
    readings = [asdict(part.reading) for part in parts]
    key = json.dumps([FORMAT, readings, lenient, paths, signatures])
    folder = cache.cache_folder() / "surveys" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if cache.is_sound(folder):
        with suppress(OSError, ValueError, TypeError):
            return Survey(**json.loads((folder / "survey.json").read_bytes()))
    found = _read(parts, lenient=lenient)
    if max(max(times[-2:]) for times in signatures) < time.time_ns() - _CLOCK_MARGIN_NS:
        with suppress(OSError), cache.fill(folder) as place:
            (place / "survey.json").write_text(json.dumps(asdict(found)))
    return found


class _Joined:
    """The joined text so far: its hash, its length, its last character, and its documents."""

    def __init__(self, *, of_documents: bool) -> None:
        self.of_documents = of_documents
        self.digest, self.characters, self.ending = hashlib.sha256(), 0, ""
        self.boundaries: list[int] = []
        self.stride = 1
        self.passed = 0

    def copy(self) -> "_Joined":
        twin = copy(self)
        twin.digest, twin.boundaries = self.digest.copy(), self.boundaries.copy()
        return twin

    def add(self, text: str) -> None:
        self.digest.update(text.encode())
        if self.of_documents and text[0] == SEPARATOR:
            self.passed += 1
            if self.passed % self.stride == 0:
                self.boundaries.append(self.characters + 1)
            if len(self.boundaries) > _MOST_BOUNDARIES:
                self.boundaries, self.stride = self.boundaries[1::2], 2 * self.stride
        self.characters += len(text)
        self.ending = text[-1]


def _read(parts: Sequence[Part], *, lenient: bool) -> Survey:
    whole = _Joined(of_documents=any(part.reading.of_documents for part in parts))
    texts: dict[int, tuple[int, str | None]] = {}
    skipped: dict[int, NotTextError] = {}
    notes: dict[str, int] = {}
    for index, given in enumerate(parts):
        found: list[str] = []
        before = whole.copy()  # restored if the part is not text
        beginning = ""
        try:
            part = _resolved(given, found, line_too=not lenient)
            for text in part.chunks(found):
                gap = "" if beginning else _gap(whole.ending, part)
                if not beginning:
                    texts[index] = whole.characters + len(gap), part.reading.encoding
                    beginning = text[:_BEGINNING]
                whole.add(gap + text)
        except NotTextError as error:
            if not lenient:
                raise
            whole, skipped[index] = before, error
            texts.pop(index, None)
            continue
        remark = None if part.reading.of_documents else structure(beginning, part.source.name)
        notes |= {note: notes.get(note, 0) + 1 for note in (*found, remark) if note}
    return Survey(
        whole.digest.hexdigest(),
        whole.characters,
        notes,
        list(texts),
        list(skipped),
        [offset for offset, _ in texts.values()],
        whole.boundaries,
        [encoding for _, encoding in texts.values()],
        [error.likely for error in skipped.values()],
        [str(error) for error in skipped.values()],
    )


def _resolved(part: Part, notes: list[str], *, line_too: bool) -> Part:
    """A part with the encoding "auto" found: by its byte order mark, UTF-8, or the likely one.

    Raises: NotTextError if no encoding is likely.
    """
    if part.reading.encoding != AUTO:
        return part
    encoding = None
    try:
        deque(decode(part.source, None, []), maxlen=0)
    except NotTextError as error:
        if (encoding := error.likely) is None:
            raise
        if encoding != REPLACING:  # which has a note of its own
            found = msg("read as {encoding}, the likely encoding", encoding=encoding)
            if line_too:
                found = msg("{found}; a line of it: {line!r}", found=found, line=error.line)
            notes.append(found)
    return replace(part, reading=replace(part.reading, encoding=encoding))
