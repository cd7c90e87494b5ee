"""Characters that a tokenizer has no token for: how messages show them, and what replaces them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

from hornbook.errors import DataError
from hornbook.language import joined, msg

SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN = str.maketrans("‘’‚‛“”„‐‑‒–—―−", "''''\"\"\"-------")


def describe(character: str) -> str:
    """A character with its Unicode name and code point."""
    plain = {"\0": "NULL", "\t": "TAB", "\n": "LINE FEED", "\r": "CARRIAGE RETURN"}
    kinds = {
        "Cc": msg("a control character"),
        "Cs": msg("half a surrogate pair"),
        "Co": msg("private use"),
    }
    category = kinds.get(unicodedata.category(character), msg("no name"))
    name = unicodedata.name(character, plain.get(character, category))
    code = ord(character)
    return msg("{character!r} ({name}, U+{code:04X})", character=character, name=name, code=code)


def check_no_surrogates(text: str) -> None:
    """Raises: DataError if a text has half of a surrogate pair."""
    if lone := SURROGATE.search(text):
        raise DataError(
            msg(
                "expected characters, got {character}: decode the text first",
                character=describe(lone[0]),
            )
        )


def excerpt(text: str, at: int, reach: int = 30) -> str:
    """The line around an offset, shortened, and below it a caret under the character there."""
    start = max(text.rfind("\n", 0, at) + 1, at - reach)
    end = text.find("\n", at + 1)
    end = min(len(text) if end < 0 else end, at + reach)
    before = "…" * (start > 0 and text[start - 1] != "\n") + text[start:at]
    after = text[at:end] + "…" * (end < len(text) and text[end] != "\n")
    before, after = ("".join(map(_visible, part)) for part in (before, after))
    # A combining mark is drawn over the letter before it and has no column of its own.
    column = sum(map(_columns, before)) - (_columns(after[0]) == 0)
    return f"  {before}{after}\n  {' ' * max(column, 0)}^"


def substitutes(character: str) -> Iterator[str]:
    """Strings that can stand in for a character, the closest first."""
    compatible = unicodedata.normalize("NFKC", character.translate(_PLAIN))
    bare = "".join(c for c in unicodedata.normalize("NFKD", compatible) if not _is_mark(c))
    yield from (compatible, bare, compatible.swapcase(), bare.swapcase())
    yield from [" "] * character.isspace() + ["?", " "]


def summary(counts: Counter[str], replacements: dict[str, str], policy: str) -> str:
    """One line on which unknown characters were skipped or replaced, and how many of each."""
    listed = [
        repr(c) + f"→{replacements[c]!r}" * (policy == "replace") + f" ({n:,})" * (n > 1)
        for c, n in counts.most_common(5)
    ]
    if more := len(counts) - len(listed):
        others = (
            msg("and 1 other kind") if more == 1 else msg("and {more:,} other kinds", more=more)
        )
        listed.append(others)
    total, which = counts.total(), joined(", ", listed)
    what = msg("1 character was") if total == 1 else msg("{total:,} characters were", total=total)
    done = msg("replaced") if policy == "replace" else msg("skipped")
    return msg(
        "{what} outside the vocabulary and {done}: {which}", what=what, done=done, which=which
    )


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in {"Mn", "Me", "Cf"}


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return chr(0x2400 + ord(character)) if character < " " else "\ufffd"


def _columns(character: str) -> int:
    # Terminals draw the vowels and finals of decomposed Hangul into the syllable's first letter.
    if _is_mark(character) or "\u1160" <= character <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
