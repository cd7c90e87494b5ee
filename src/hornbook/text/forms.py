"""Forms of the same text: line ends (LF, CRLF, CR), composed and decomposed characters.

"é" is one character or "e" and U+0301; Hangul syllables are one character or two to four. A cluster
is what may change its form as a whole: a line end, or a character and the marks that follow it.
"""

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hornbook.config import DataConfig
from hornbook.language import joined, msg

BYTE_ORDER_MARK = "\ufeff"
LINE_ENDS = ("\n", "\r\n", "\r")
# What no text composes with the character before it, CR and LF aside: a text can be cut there.
_CUT = re.compile(r".*(?=[\0-\t\v-\x7f\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3])", re.S)
# A remark describes a text's beginning, of so many characters: a second pass over a large one.
REMARKED_CHARACTERS = 50_000_000


def reformed(chunks: Iterable[str], *, newlines: str, normalize: str) -> Iterator[str]:
    """A text in the form that the settings `newlines` and `normalize` name, in non-empty chunks."""
    held = ""
    for chunk in chunks:
        held += chunk
        # What follows may belong to the last cluster.
        end = len(held) - held.endswith("\r")
        if normalize != "none":
            end = found.end() if (found := _CUT.match(held)) else 0
        if end:
            yield _reform(held[:end], newlines, normalize)
            held = held[end:]
    if held:
        yield _reform(held, newlines, normalize)


def formed_text(text: str, config: DataConfig) -> str:
    """A text in the form of a run's settings."""
    return "".join(reformed([text], newlines=config.newlines, normalize=config.normalize))


def _reform(text: str, newlines: str, normalize: str) -> str:
    if newlines == "lf":
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if normalize == "none":
        return text
    return unicodedata.normalize("NFC" if normalize == "nfc" else "NFD", text)


def unified(text: str) -> tuple[str, NDArray[np.int64] | None]:
    """A text with LF and composed characters, to compare texts whatever their forms.

    With it the offset in `text` of each of its characters, and of its end: [T + 1]. None if nothing
    was changed.
    """
    if "\r" not in text and unicodedata.is_normalized("NFC", text):
        return text, None
    found = _reform(text, "lf", "nfc")
    # Both decompose into the same characters, whose numbers tell which come from which.
    widths = np.ones(sys.maxunicode + 1, np.int8)
    for character in {*text, *found}:
        widths[ord(character)] = len(unicodedata.normalize("NFD", character))
    codes = code_points(text)
    before, after = widths[codes], widths[code_points(found)]
    before[:-1][(codes[:-1] == ord("\r")) & (codes[1:] == ord("\n"))] = 0
    starts, wanted = (np.concatenate([[0], np.cumsum(each)]) for each in (before, after))
    return found, starts.searchsorted(wanted)


def code_points(text: str) -> NDArray[np.uint32]:
    """The code points of a text, lone surrogates included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def in_known_characters(text: str, knows: Callable[[str], bool]) -> tuple[str, str]:
    """A text in the form whose characters are known, and one line on what was changed.

    Only clusters with unknown characters change; where no form is known, nothing does.
    """
    notes: dict[str, None] = {}
    if text.startswith(BYTE_ORDER_MARK):
        text, notes[msg("a byte order mark was removed")] = text[1:], None
    unknown = {c for c in set(text) if not knows(c)}

    @cache
    def best_form(cluster: str) -> str:
        if unknown.isdisjoint(cluster):
            return cluster
        if cluster in LINE_ENDS:
            changed = msg("line ends were changed to those of the training text")
            forms = dict.fromkeys(LINE_ENDS, changed)
        else:
            forms = {
                unicodedata.normalize("NFC", cluster): msg("the text was composed (NFC)"),
                unicodedata.normalize("NFD", cluster): msg("the text was decomposed (NFD)"),
            }
        best = min([cluster, *forms], key=lambda form: sum(not knows(c) for c in form))
        if best != cluster:
            notes[forms[best]] = None
        return best

    if unknown:
        text = "".join(_substituted(text, unknown, best_form))
    return text, joined("; ", notes)


def _substituted(text: str, singles: set[str], form: Callable[[str], str]) -> Iterator[str]:
    """The text in pieces, with `form` of each cluster that may need it."""
    done = 0
    for found in _clusters(text, singles):
        yield text[done : found.start()]
        yield form(found[0])
        done = found.end()
    yield text[done:]


def _clusters(text: str, singles: set[str]) -> Iterator[re.Match[str]]:
    """The clusters of a text that have several characters or one of `singles`, and line ends."""
    marks = "".join(c for c in set(text) if _is_mark(c))
    alone = "".join(singles.difference(marks, "\r\n"))
    patterns = ["\r\n?|\n" if "\r" in text or "\n" in singles else ""]
    patterns += [f"[^{re.escape(marks)}\r\n]?[{re.escape(marks)}]+"] if marks else []
    patterns += [f"[{re.escape(alone)}]"] if alone else []
    pattern = "|".join(filter(None, patterns))
    return re.finditer(pattern, text) if pattern else iter(())


def _is_mark(character: str) -> bool:
    """Whether a character may compose with the one before it: a mark, a Hangul vowel or final."""
    return unicodedata.category(character) in ("Mn", "Mc") or "\u1160" <= character <= "\u11ff"


def line_number(text: str, start: int, at: int) -> int:
    """The line of an offset, counted from 1 at `start`; lines end in LF, CRLF or CR."""
    ends = text.count("\n", start, at) + text.count("\r", start, at)
    return 1 + ends - text.count("\r\n", start, at)


def at_any_line_end(stop: str) -> list[str]:
    """A stop string, with its LF as CRLF and CR too: a model writes the line ends of its text."""
    return [stop] if "\r" in stop else [*{stop.replace("\n", end): None for end in LINE_ENDS}]


def remarks(chunks: Iterable[str], *, newlines: str, normalize: str) -> list[str]:
    """What to know of the forms in a text that the settings leave as they are: a line for each."""
    lf = crlf = cr = characters = 0
    composed, example, ending = False, "", ""
    for chunk in chunks:
        pairs = (ending + chunk).count("\r\n")  # a chunk may end inside one
        lf, crlf, cr = lf + chunk.count("\n") - pairs, crlf + pairs, cr + chunk.count("\r") - pairs
        ending = chunk[-1]
        composed = composed or len(unicodedata.normalize("NFD", chunk)) > len(chunk)
        example = example or _decomposed_cluster(chunk)
        characters += len(chunk)
        if characters > REMARKED_CHARACTERS:
            break
    found: list[str] = []
    if newlines == "keep" and (crlf or cr):
        counts = {"LF": lf, "CRLF": crlf, "CR": cr}
        listed = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        found.append(
            msg(
                "line ends: {listed}; the model learns them as they are, and --newlines lf makes "
                "all of them LF",
                listed=listed,
            )
        )
    if normalize == "none" and composed and example:
        parts = " + ".join(f"U+{ord(c):04X}" for c in example)
        found.append(
            msg(
                "the text has both composed characters (NFC) and decomposed ones (NFD), such as "
                "{parts} for {character!r}, so that the same words have different tokens; "
                "--normalize nfc composes all of them",
                parts=parts,
                character=unicodedata.normalize("NFC", example),
            )
        )
    return found


def _decomposed_cluster(text: str) -> str:
    """The first cluster that can be composed, or an empty string."""
    if unicodedata.is_normalized("NFC", text):
        return ""
    forms = (found[0] for found in _clusters(text, set()))
    return next((c for c in forms if 0 < len(unicodedata.normalize("NFC", c)) < len(c)), "")
