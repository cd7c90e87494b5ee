"""Text to token ids and back: characters, bytes, or byte-pair merges.

Each of the three is saved as a ``tokenizer.json`` that the tokenizers library opens, with the same
ids and the same decoding there. Reading and using the first two needs no library at all.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import sys
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from hornbook.errors import ConfigError, DataError, UnknownCharacterError
from hornbook.storage.files import read_json

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    import tokenizers

    IdArray = np.ndarray[tuple[int], np.dtype[np.unsignedinteger[Any]]]

KINDS: Final = ("char", "byte", "bpe")
UNKNOWN_POLICIES: Final = ("error", "skip", "replace")

_ARRAY_CHUNK_CHARACTERS = 1 << 18  # long enough to hide the loop, short enough for the cache
_BPE_CHUNK_CHARACTERS = 1 << 14
_BPE_BATCH_CHARACTERS = 1 << 20  # enough chunks for many cores; the library takes 150 B a token
_WORD_END = re.compile(r"(?<=\S)(?=[ \n])")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN = str.maketrans("‘’‚‛“”„‐‑‒–—―−", "''''\"\"\"-------")


class Tokenizer(ABC):
    """What the three kinds share: ids run from 0 to ``vocab_size - 1``; equal means same JSON."""

    kind: ClassVar[str]
    vocab_size: int

    @abstractmethod
    def encode_array(self, text: str) -> IdArray:
        """The ids of a text, [N], in the smallest unsigned type that holds the vocabulary.

        Raises: UnknownCharacterError at the first character that has no id.
        """

    @abstractmethod
    def token_bytes(self) -> list[bytes]:
        """The UTF-8 bytes of each token, in order of id; a token may hold part of a character."""

    @abstractmethod
    def to_json(self) -> str:
        """The tokenizer as a ``tokenizer.json`` of the tokenizers library."""

    @abstractmethod
    def _knows(self, character: str) -> bool:
        """Whether a character can be encoded."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises: UnknownCharacterError."""
        return self.encode_array(text).tolist()

    def encode_chunks(self, chunks: Iterable[str]) -> Iterator[tuple[int, IdArray]]:
        """The ids of a text that comes in chunks: arrays, each with how many characters it spells.

        Joined, the arrays are the ids of the joined chunks; and what follows any of them is encoded
        the same by itself, so that one can stop between two and go on later.
        Raises: UnknownCharacterError, placed in the whole text.
        """
        characters = lines = 0
        for chunk in self._regrouped(chunks):
            try:
                ids = self.encode_array(chunk)
            except UnknownCharacterError:
                raise self._unknown_character(chunk, characters, lines) from None
            yield len(chunk), ids
            characters += len(chunk)
            lines += chunk.count("\n")

    def _regrouped(self, chunks: Iterable[str]) -> Iterable[str]:
        """The chunks, cut anew where their ids would depend on each other."""
        return chunks

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids: a list, a 1-D array or a 1-D tensor; broken UTF-8 becomes U+FFFD.

        Raises: DataError if an id is not a whole number in the vocabulary.
        """
        tolist = getattr(ids, "tolist", None)
        numbers: list[int] = list(ids) if tolist is None else tolist()
        known = self._pieces
        try:
            return b"".join([known[i] for i in numbers]).decode(errors="replace")
        except (KeyError, TypeError):
            bad = next(i for i in numbers if not isinstance(i, Hashable) or i not in known)
            raise DataError(
                f"expected ids from 0 to {self.vocab_size - 1} (vocabulary of {self.vocab_size}), "
                f"got {str(bad)[:40]}: were these ids made by another tokenizer?"
            ) from None

    def fit(self, text: str, policy: str = "error") -> tuple[str, str]:
        """A text that can be encoded, and a line that says what was changed ("" for nothing).

        ``policy`` says what becomes of unknown characters: "error" raises, "skip" leaves them
        out, "replace" puts the closest known stand-in.
        Raises: UnknownCharacterError; ConfigError for another policy.
        """
        _expect_one_of(policy, UNKNOWN_POLICIES, "a policy for unknown characters")
        if not (strangers := self._strangers(text)):
            return text, ""
        if policy == "error":
            raise self._unknown_character(text)
        notes: list[str] = []
        composed = unicodedata.normalize("NFC", text)
        # Decomposed accents and Hangul (as macOS writes them) are the same text, spelt apart.
        if len(fewer := self._strangers(composed)) < len(strangers):
            text, strangers = composed, fewer
            notes.append("the text was composed (NFC)")
        if strangers:
            counts = Counter({c: n for c, n in Counter(text).items() if c in strangers})
            stand_ins = {c: self._stand_in(c) if policy == "replace" else "" for c in counts}
            text = text.translate(str.maketrans(stand_ins))
            notes.append(_changes(counts, stand_ins, policy))
        return text, "; ".join(notes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``tokenizer.json``. Raises: DataError if it cannot be written."""
        try:
            Path(path).write_bytes(self.to_json().encode())
        except OSError as error:
            raise DataError(f"cannot write the tokenizer to {path}: {error.strerror}") from None

    @property
    def sha256(self) -> str:
        """The hash of the JSON's bytes: equal tokenizers have equal hashes."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size})"

    @cached_property
    def _pieces(self) -> dict[int, bytes]:
        # A dict, where a list would take -1 for the last token.
        return dict(enumerate(self.token_bytes()))

    def _strangers(self, text: str) -> set[str]:
        return {c for c in set(text) if not self._knows(c)}

    def _stand_in(self, character: str) -> str:
        compatible = unicodedata.normalize("NFKC", character.translate(_PLAIN))
        bare = "".join(c for c in unicodedata.normalize("NFKD", compatible) if not _is_mark(c))
        tries = [compatible, bare, compatible.swapcase(), bare.swapcase()]
        tries += [" "] * character.isspace() + ["?", " "]
        known = (t for t in tries if all(self._knows(c) for c in t))
        return next(known, self.decode([0]))

    def _unknown_character(
        self, text: str, characters: int = 0, lines: int = 0
    ) -> UnknownCharacterError:
        """The error for a text's first stranger; before it came so many characters and lines."""
        at = next(i for i, c in enumerate(text) if not self._knows(c))
        line = lines + text.count("\n", 0, at) + 1
        return UnknownCharacterError(
            f"the tokenizer does not know {_named(text[at])}, character {characters + at + 1:,} of "
            f"the text, on line {line:,}:\n{_excerpt(text, at)}\n"
            "leave such characters out with --unknown skip, take the closest known ones with "
            "--unknown replace, or train on a text that has them"
        )


class CharTokenizer(Tokenizer):
    """One id for each distinct character, in order of code point, as in Karpathy's lecture.

    ``chars`` is the vocabulary as one string; ``stoi`` and ``itos`` map either way.
    Raises: DataError for no characters at all, or for half a surrogate pair.
    """

    kind = "char"

    def __init__(self, chars: str) -> None:
        self.chars: str = "".join(sorted(set(chars)))
        if not self.chars:
            raise DataError("expected a text to take the characters from, got an empty one")
        if lone := _SURROGATE.search(self.chars):
            raise DataError(f"expected characters, got {_named(lone[0])}: decode the text first")
        self.vocab_size = len(self.chars)
        self.stoi = {c: i for i, c in enumerate(self.chars)}
        self.itos = dict(enumerate(self.chars))
        # Ids by code point. The last entry, where every greater code point ends up too, and every
        # gap hold vocab_size: no id.
        codes = [ord(c) for c in self.chars]
        self._ids_by_code = np.full(codes[-1] + 2, self.vocab_size, np.uint32)
        self._ids_by_code[codes] = np.arange(self.vocab_size, dtype=np.uint32)
        # In order of code point an ASCII character's id is below 128, so bytes.translate, several
        # times as fast as a numpy look-up, can do the ASCII part.
        self._ascii = "".join(c for c in self.chars if c.isascii()).encode()
        self._ascii_ids = bytes.maketrans(self._ascii, bytes(range(len(self._ascii))))

    @classmethod
    def from_text(cls, text: str) -> CharTokenizer:
        """The tokenizer of a text's own characters. Raises: DataError if there are none."""
        return cls.from_chunks(
            text[start : start + _ARRAY_CHUNK_CHARACTERS]
            for start in range(0, len(text), _ARRAY_CHUNK_CHARACTERS)
        )

    @classmethod
    def from_chunks(cls, chunks: Iterable[str]) -> CharTokenizer:
        """The tokenizer of all chunks' characters. Raises: DataError if there are none."""
        ascii_bytes = b""
        seen = np.zeros(sys.maxunicode + 1, np.bool_)
        for chunk in chunks:
            # Deleting what is known already and looking at the rest is ten times as fast as a set.
            if chunk.isascii():
                ascii_bytes += bytes(set(chunk.encode().translate(None, ascii_bytes)))
            else:
                codes = np.frombuffer(chunk.encode("utf-32-le", "surrogatepass"), "<u4")
                known = seen.take(codes, mode="clip")  # a third of the time of writing them all
                if not known.all():
                    seen[codes[~known]] = True
        return cls(ascii_bytes.decode() + "".join(map(chr, np.flatnonzero(seen).tolist())))

    def encode_array(self, text: str) -> IdArray:
        ids = np.empty(len(text), _id_type(self.vocab_size))
        for start in range(0, len(text), _ARRAY_CHUNK_CHARACTERS):
            part = text[start : start + _ARRAY_CHUNK_CHARACTERS]
            if part.isascii():
                ascii_bytes = part.encode()
                if ascii_bytes.translate(None, self._ascii):
                    raise self._unknown_character(text)
                found = np.frombuffer(ascii_bytes.translate(self._ascii_ids), np.uint8)
            else:
                codes = np.frombuffer(part.encode("utf-32-le", "surrogatepass"), "<u4")
                found = self._ids_by_code.take(codes, mode="clip")
                if found.max() == self.vocab_size:
                    raise self._unknown_character(text)
            ids[start : start + len(part)] = found
        return ids

    def token_bytes(self) -> list[bytes]:
        return [c.encode() for c in self.chars]

    def to_json(self) -> str:
        return _to_json("char", {"vocab": self.stoi})

    def _knows(self, character: str) -> bool:
        return character in self.stoi


class ByteTokenizer(Tokenizer):
    """The 256 values of a byte of UTF-8; every text can be encoded."""

    kind = "byte"
    vocab_size = 256

    def encode_array(self, text: str) -> IdArray:
        try:
            return np.frombuffer(text.encode(), np.uint8).copy()
        except UnicodeEncodeError:
            raise self._unknown_character(text) from None

    def token_bytes(self) -> list[bytes]:
        return [bytes([i]) for i in range(256)]

    def to_json(self) -> str:
        return _to_json("byte", {"vocab": _BYTE_VALUES, "merges": []})

    def _knows(self, character: str) -> bool:
        return not _SURROGATE.match(character)


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding, as in GPT-2; every text can be encoded.

    ``vocab`` maps tokens, spelt in the byte-level alphabet, to ids; ``merges`` come in order.
    Raises: DataError if vocabulary and merges do not belong together.
    """

    kind = "bpe"

    def __init__(self, vocab: dict[str, int], merges: Sequence[tuple[str, str]]) -> None:
        # The library panics, or takes memory for the greatest id, where these do not hold.
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise DataError("expected a vocabulary with the ids 0, 1, 2, ... each once")
        if not vocab.keys() >= _BYTE_VALUES.keys():
            raise DataError("expected a vocabulary with all 256 bytes")
        if any(not token or not _BYTE_VALUES.keys() >= set(token) for token in vocab):
            raise DataError("expected tokens spelt in the byte-level alphabet")
        if any(a not in vocab or b not in vocab or a + b not in vocab for a, b in merges):
            raise DataError("expected merges of two tokens of the vocabulary into a third")
        # A vocabulary bounds distinct merges; the library's memory grows with repeated ones.
        if len(set(map(tuple, merges))) < len(merges):
            raise DataError("expected each merge once")
        self.vocab_size = len(vocab)
        self._vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
        self._merges = [list(pair) for pair in merges]

    @classmethod
    def train(cls, text: str | Iterable[str], vocab_size: int) -> BPETokenizer:
        """Learn merges from a text or its chunks: ``vocab_size`` tokens, or fewer if pairs run out.

        Raises: ConfigError if ``vocab_size`` is below 256, the number of bytes.
        """
        if vocab_size < 256:
            raise ConfigError(f"expected a vocab_size of at least 256 (bytes), got {vocab_size}")
        chunks = _without_surrogates([text] if isinstance(text, str) else text)
        from tokenizers import Tokenizer as LibraryTokenizer
        from tokenizers import models, trainers

        # The untrained library tokenizer is read from our own JSON, so that training cuts words
        # just as encoding does later.
        library = LibraryTokenizer.from_str(ByteTokenizer().to_json())
        library.model = models.BPE()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=list(_BYTE_VALUES),
        )
        library.train_from_iterator(_between_words(chunks, _BPE_CHUNK_CHARACTERS), trainer)
        learned = json.loads(library.to_str())["model"]
        return cls(learned["vocab"], [(a, b) for a, b in learned["merges"]])

    def encode_array(self, text: str) -> IdArray:
        if not _is_encodable(text):
            raise self._unknown_character(text)
        id_type = _id_type(self.vocab_size)
        pieces = list(_between_words([text], _BPE_CHUNK_CHARACTERS))
        encodings = self._library.encode_batch_fast(pieces, add_special_tokens=False)
        parts = [np.array(encoding.ids, id_type) for encoding in encodings]
        return np.concatenate([np.empty(0, id_type), *parts])

    def _regrouped(self, chunks: Iterable[str]) -> Iterable[str]:
        return _between_words(chunks, _BPE_BATCH_CHARACTERS)

    def token_bytes(self) -> list[bytes]:
        return [bytes(_BYTE_VALUES[c] for c in token) for token in self._vocab]

    def to_json(self) -> str:
        return _to_json("bpe", {"vocab": self._vocab, "merges": self._merges})

    def _knows(self, character: str) -> bool:
        return not _SURROGATE.match(character)

    @cached_property
    def _library(self) -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer as LibraryTokenizer

        return LibraryTokenizer.from_str(self.to_json())


def build_tokenizer(kind: str, text: str | Iterable[str], *, vocab_size: int = 1024) -> Tokenizer:
    """The tokenizer of a kind for a text, or its chunks; ``vocab_size`` counts for "bpe" alone.

    Raises: ConfigError for another kind or a vocabulary below 256; DataError for an empty text.
    """
    _expect_one_of(kind, KINDS, "a tokenizer")
    if kind == "char":
        whole = isinstance(text, str)
        return CharTokenizer.from_text(text) if whole else CharTokenizer.from_chunks(text)
    return ByteTokenizer() if kind == "byte" else BPETokenizer.train(text, vocab_size)


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Read a ``tokenizer.json`` that hornbook wrote. Raises: DataError."""
    try:
        document = read_json(path)
    except OSError as error:
        raise DataError(f"cannot read the tokenizer {path}: {error.strerror}") from None
    except ValueError:
        raise DataError(f"{path} is not JSON, and so not a tokenizer.json") from None
    try:
        return _from_document(document)
    except DataError as error:
        raise DataError(f"{path} is not a tokenizer that hornbook wrote: {error}") from None


def _byte_values() -> dict[str, int]:
    """GPT-2's byte-level alphabet: a printable character for each byte, Ġ for the space."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return {chr(b if b in printable else next(spare)): b for b in range(256)}


_BYTE_VALUES: Final = _byte_values()

_BYTE_LEVEL: Final = {"type": "ByteLevel"} | {
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_NO_EXTRAS: Final = {
    **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
    **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
}


def _frame(kind: str) -> dict[str, Any]:
    """The JSON of a kind, all but the vocabulary and the merges."""
    frame: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None}
    frame |= {"added_tokens": [], "normalizer": None, "post_processor": None}
    if kind != "char":
        model = {"type": "BPE", **_NO_EXTRAS}
        return {**frame, "pre_tokenizer": _BYTE_LEVEL, "decoder": _BYTE_LEVEL, "model": model}
    every = {"pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    # No character is spelt <unk>, so the library raises where it meets a strange one, as we do.
    model = {"type": "WordLevel", "unk_token": "<unk>"}
    split = {"type": "Split", **every}
    return {**frame, "pre_tokenizer": split, "decoder": {"type": "Fuse"}, "model": model}


def _to_json(kind: str, learned: dict[str, Any]) -> str:
    frame = _frame(kind)
    document = {**frame, "model": {**frame["model"], **learned}}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _from_document(document: object) -> Tokenizer:
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(model, dict):
        raise DataError("it has no model")
    frame = _frame("char" if model.get("type") == "WordLevel" else "bpe")
    for name, expected in {**frame, **frame["model"]}.items():
        found = (model if name in frame["model"] else document).get(name)
        if name != "model" and found != expected:
            raise DataError(f"expected {name} {_brief(expected)}, found {_brief(found)}")
    vocab, merges = model.get("vocab"), model.get("merges", [])
    if not isinstance(vocab, dict) or any(type(i) is not int for i in vocab.values()):
        raise DataError("expected a vocabulary of tokens and whole numbers")
    if model["type"] == "WordLevel":
        if not vocab or any(len(token) != 1 for token in vocab):
            raise DataError("expected tokens of one character each")
        tokenizer = CharTokenizer("".join(vocab))
        if tokenizer.stoi != vocab:
            raise DataError("expected ids in order of code point")
        return tokenizer
    if not isinstance(merges, list) or not all(_is_pair(pair) for pair in merges):
        raise DataError("expected merges of two tokens each")
    if vocab == _BYTE_VALUES and not merges:
        return ByteTokenizer()
    return BPETokenizer(vocab, [(a, b) for a, b in merges])


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _expect_one_of(value: str, choices: Sequence[str], what: str) -> None:
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(f"expected {what} among {', '.join(choices)}; got {value!r}{hint}")


def _id_type(vocab_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    return np.min_scalar_type(vocab_size - 1)


def _between_words(chunks: Iterable[str], size: int) -> Iterator[str]:
    """Cut a text anew where byte-level pre-tokenisation is sure to cut it too: after a word.

    GPT-2's pattern never looks back, and whatever ends in a character that is not a space ends
    there when white space follows; so the ids are those of the whole text, at a fraction of the
    memory and on all cores. Pieces have ``size`` characters or a little more, the last any number.
    """
    rest, searched = "", 0
    for chunk in chunks:
        rest += chunk
        start = 0
        while cut := _WORD_END.search(rest, max(start + size, searched)):
            yield rest[start : cut.start()]
            start = cut.start()
        rest = rest[start:]
        # A line of 100 MB without a space is not searched again with every chunk of it.
        searched = len(rest) if len(rest) > size else 0
    yield rest


def _without_surrogates(chunks: Iterable[str]) -> Iterator[str]:
    for chunk in chunks:
        if not _is_encodable(chunk) and (lone := _SURROGATE.search(chunk)):
            raise DataError(f"expected characters, got {_named(lone[0])}: decode the text first")
        yield chunk


def _is_encodable(text: str) -> bool:
    """Whether no half of a surrogate pair is in a text; encoding finds it fastest."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _changes(counts: Counter[str], stand_ins: dict[str, str], policy: str) -> str:
    shown = [
        repr(c) + f"→{stand_ins[c]!r}" * (policy == "replace") + f" ({n:,})" * (n > 1)
        for c, n in counts.most_common(5)
    ]
    if more := len(counts) - len(shown):
        shown.append(f"and {more:,} other kind{'s' * (more > 1)}")
    total = counts.total()
    what = "1 character was" if total == 1 else f"{total:,} characters were"
    done = "replaced" if policy == "replace" else "skipped"
    return f"{what} outside the vocabulary and {done}: {', '.join(shown)}"


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in {"Mn", "Me", "Cf"}


def _named(character: str) -> str:
    plain = {"\0": "NULL", "\t": "TAB", "\n": "LINE FEED", "\r": "CARRIAGE RETURN"}
    kinds = {"Cc": "a control character", "Cs": "half a surrogate pair", "Co": "private use"}
    category = kinds.get(unicodedata.category(character), "no name")
    name = unicodedata.name(character, plain.get(character, category))
    return f"{character!r} ({name}, U+{ord(character):04X})"


def _excerpt(text: str, at: int, reach: int = 30) -> str:
    """The line around a place, shortened, and below it a caret under the place."""
    start = max(text.rfind("\n", 0, at) + 1, at - reach)
    end = text.find("\n", at + 1)
    end = min(len(text) if end < 0 else end, at + reach)
    before = "…" * (start > 0 and text[start - 1] != "\n") + text[start:at]
    after = text[at:end] + "…" * (end < len(text) and text[end] != "\n")
    before, after = ("".join(map(_visible, part)) for part in (before, after))
    # A mark that stacks on the letter before it has no column of its own.
    column = sum(map(_columns, before)) - (_columns(after[0]) == 0)
    return f"  {before}{after}\n  {' ' * max(column, 0)}^"


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return chr(0x2400 + ord(character)) if character < " " else "\ufffd"


def _columns(character: str) -> int:
    # The vowels and finals of decomposed Hangul are drawn into the syllable's first letter.
    if _is_mark(character) or "\u1160" <= character <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
