"""Which encoding bytes are in, where they are not UTF-8."""

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

from hornbook.language import Message, joined, msg

# Bytes around the first that is not UTF-8, from which an encoding is judged.
SAMPLE_BYTES = 1 << 15
# More bytes than these that are not UTF-8, and the text is not a damaged UTF-8 text.
MOST_DAMAGED = 1000

# What may stand beside letters in a Western text.
_PUNCTUATION = set("“”„‘’‚–—…«»‹›•·¿¡°§€£¢™®©ªº×½¼¾²³\xa0\xad")
# What was a letter of another encoding: a sign within a word, two signs in a row, a capital letter
# after a small one.
_MISREAD = re.compile(
    r"(?<=[^\W\d_])[^\x00-\x7f\w’‘·\xad\xa0–—…](?=[^\W\d_])"
    r"|[•·¿¡°§€£¢™®©ªº×½¼¾²³]{2,}"
)
_AFTER_SMALL = re.compile(r"(?<=[a-z])[^\x00-\x7f]")
# The letters beside a-z of languages, by the encodings that Windows gave them, likeliest first;
# the encodings of DOS and of the old Mac come last.
_WESTERN = (
    "àâæçéèêëîïôœùûü",  # French
    "äöüßé",  # German
    "áéíóúñü",  # Spanish
    "àáâãçéêíóôõúü",  # Portuguese
    "àèéìíîòóùú",  # Italian
    "àçéèíïóòúü",  # Catalan
    "áéëèïóöüíê",  # Dutch
    "åäöæøéü",  # Nordic
    "áðéíóúýþæö",  # Icelandic
)
_CENTRAL = ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "ăâîşţ", "čćđšž")
_LANGUAGES = (
    ("cp1252", _WESTERN),
    ("cp1250", _CENTRAL),
    ("cp1254", ("çğıöşüâîûİ",)),
    ("cp1257", ("ąčęėįšųūž", "āčēģīķļņšūž", "äöõüšž")),
    ("mac_roman", _WESTERN),
    ("cp850", _WESTERN),
)
# Of languages in other scripts, the frequent characters, and the least share of these in a text.
_KANA = "".join(map(chr, range(0x3041, 0x30FF)))
_FREQUENT = {
    "cp1251": ("оеаинтсрвлк", 0.5),
    "koi8_r": ("оеаинтсрвлк", 0.5),
    "cp866": ("оеаинтсрвлк", 0.5),
    "cp949": ("이다는을의에가고하한를은지로어도사기나라서리자아시대인해", 0.1),
    "shift_jis": (_KANA, 0.25),
    "euc_jp": (_KANA, 0.25),
    "gb18030": ("的一是了不在有人这中大来上个国我说们到时子和你地出为要", 0.08),
    "big5": ("的一是了不在有人這中大來上個國我說們到時子和你地出為要", 0.08),
}
# charset-normalizer's names of encodings, and ours: for these its guess is used.
_COMMON = {
    **dict.fromkeys(("cp949", "euc_kr", "johab"), "cp949"),
    **dict.fromkeys(("gb18030", "gbk", "gb2312", "hz"), "gb18030"),
    **dict.fromkeys(("shift_jis", "cp932", "shift_jis_2004", "shift_jisx0213"), "shift_jis"),
    **dict.fromkeys(("euc_jp", "euc_jis_2004", "euc_jisx0213"), "euc_jp"),
    **dict.fromkeys(("big5", "cp950", "big5hkscs"), "big5"),
    **{name: name for name in ("cp1251", "koi8_r", "cp866")},
    **dict.fromkeys(("cp1253", "iso8859_7"), "cp1253"),
    **dict.fromkeys(("cp874", "tis_620", "iso8859_11"), "cp874"),
    **{name: name for name in ("cp1255", "cp1256", "cp1258", "iso2022_jp")},
}


@dataclass(frozen=True)
class Damage:
    """Bytes that are not UTF-8, by their offsets, in a text of so many bytes."""

    places: dict[int, int]
    beyond_ascii: bool  # whether other characters of the text are UTF-8 and not ASCII
    size: int

    @property
    def small(self) -> bool:
        """Whether this is UTF-8 but for a few bytes."""
        return len(self.places) <= min(MOST_DAMAGED, 3 + self.size // 1000)

    def described(self) -> Message:
        """How many bytes, and the first of them."""
        count = len(self.places)
        first = list(self.places.items())[:3]
        listed = joined(
            ", ",
            (
                msg("0x{byte:02x} at offset {offset:,}", byte=b, offset=offset)
                for offset, b in first
            ),
        )
        if count > 3:
            listed = msg("{listed} and {more:,} more", listed=listed, more=count - 3)
        if count == 1:
            return msg("1 byte ({listed})", listed=listed)
        return msg("{count:,} bytes ({listed})", count=count, listed=listed)


def damage(chunks: Iterable[bytes]) -> Damage:
    """What of a text is not UTF-8; stops soon after MOST_DAMAGED bytes."""
    places: dict[int, int] = {}
    beyond_ascii, offset, rest = False, 0, b""
    for chunk in chain(chunks, [b""]):  # the last is the end of the text
        data, at = rest + chunk, 0
        while len(places) <= MOST_DAMAGED:
            try:
                text, used = codecs.utf_8_decode(memoryview(data)[at:], "strict", not chunk)
            except UnicodeDecodeError as error:
                start, end = at + error.start, at + error.end
                beyond_ascii = beyond_ascii or not data[at:start].isascii()
                places |= {offset + place: data[place] for place in range(start, end)}
                at = end
            else:
                beyond_ascii = beyond_ascii or used > len(text)
                at += used
                break
        offset, rest = offset + at, data[at:]
        if len(places) > MOST_DAMAGED:
            break
    return Damage(places, beyond_ascii, offset)


def guess(sample: bytes) -> str | None:
    """The likeliest encoding of bytes that are not UTF-8, by what is common for their script."""
    fits = {name: _fit(sample, name, languages) for name, languages in _LANGUAGES}
    best = max(fits, key=lambda name: fits[name])
    if fits[best] >= 0.95:
        return best
    shares = {name: _share(sample, name, frequent) for name, (frequent, _) in _FREQUENT.items()}
    if known := [name for name in shares if shares[name] >= _FREQUENT[name][1]]:
        return max(known, key=lambda name: shares[name] / _FREQUENT[name][1])
    from charset_normalizer import from_bytes

    found = from_bytes(sample).best()
    return _COMMON.get(found.encoding) if found is not None else None


def _fit(sample: bytes, encoding: str, languages: Sequence[str]) -> float:
    """The share of characters beyond ASCII that are of one language; 0 if they are the most.

    A text in several languages is given a little less.
    """
    text = sample.decode(encoding, "replace")
    beyond = [c for c in text if c > "\x7f"]
    if sum(c.isascii() and c.isalpha() for c in text) <= len(beyond):
        return 0.0
    letters = Counter(c for c in beyond if c not in _PUNCTUATION)
    misread = sum(map(len, _MISREAD.findall(text)))
    misread += sum(c.isupper() for c in _AFTER_SMALL.findall(text))
    alphabets = [_alphabet(language) for language in languages]
    known = [sum(count for c, count in letters.items() if c in each) for each in alphabets]
    together = sum(count for c, count in letters.items() if any(c in each for each in alphabets))
    best = max(*known, together - 0.03 * len(beyond))
    if best <= 0 and encoding != "cp1252":  # signs alone speak for no language
        return 0.0
    return (best + len(beyond) - letters.total() - misread) / len(beyond)


def _share(sample: bytes, encoding: str, frequent: str) -> float:
    """The share of `frequent` beyond ASCII; 0 if the bytes are not of the encoding."""
    decoded = sample.decode(encoding, "replace")
    # The sample may begin and end inside a character.
    if "\ufffd" in decoded[2:-2]:
        return 0.0
    beyond = [c for c in decoded if c > "\x7f"]
    return sum(c in frequent for c in beyond) / max(1, len(beyond))


@cache
def _alphabet(language: str) -> frozenset[str]:
    return frozenset(language + language.upper())


def changed_line(sample: bytes, encoding: str) -> str:
    """A part of the sample's first line with characters beyond ASCII, decoded, of 60 characters."""
    for line in sample.decode(encoding, "replace").splitlines():
        found = re.search(r"[^\x00-\x7f\ufffd]", line)
        if found:
            start = max(0, found.start() - 25)
            return "".join(c if c.isprintable() else " " for c in line[start : start + 60]).strip()
    return ""
