"""What every tokenizer does: text to token ids and back."""

import codecs
import difflib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from hornbook.errors import ConfigError, DataError, UnknownCharacterError, reason
from hornbook.language import joined, msg
from hornbook.text.forms import in_known_characters
from hornbook.text.tokenizer.unknown import SURROGATE, describe, excerpt, substitutes, summary

IdArray = np.ndarray[tuple[int], np.dtype[np.unsignedinteger[Any]]]
UNKNOWN_POLICIES: Final = ("error", "skip", "replace")
DECODED_AT_ONCE: Final = 1 << 18


class Tokenizer(ABC):
    """Maps text to ids from 0 to ``vocab_size - 1`` and back; equal JSON means equal tokenizers."""

    kind: ClassVar[str]
    vocab_size: int
    # Whether the text of a run has CR, which bytes can always encode; None if nobody recorded it.
    text_has_cr: bool | None = None

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

    def knows(self, character: str) -> bool:
        """Whether a character can be encoded."""
        return not SURROGATE.match(character)

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises: UnknownCharacterError."""
        return self.encode_array(text).tolist()

    def encode_chunks(self, chunks: Iterable[str]) -> Iterator[tuple[int, IdArray]]:
        """Encode a text that comes in chunks: yields a number of characters and their ids.

        The concatenated arrays are the ids of the concatenated chunks. The text after any of them
        encodes to the same ids on its own, so encoding can stop between two and continue later.
        Raises: UnknownCharacterError, with the position in the whole text.
        """
        characters = lines = 0
        for chunk in self._rechunk(chunks):
            try:
                ids = self.encode_array(chunk)
            except UnknownCharacterError:
                raise self._unknown_character(chunk, characters, lines) from None
            yield len(chunk), ids
            characters += len(chunk)
            lines += chunk.count("\n")

    def _rechunk(self, chunks: Iterable[str]) -> Iterable[str]:
        """The same text in chunks that can be encoded independently of each other."""
        return chunks

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids: a list, a 1-D array or a 1-D tensor; broken UTF-8 becomes U+FFFD.

        Raises: DataError if an id is not an integer in the vocabulary.
        """
        tolist = getattr(ids, "tolist", None)
        numbers: list[int] = list(ids) if tolist is None else tolist()
        tokens = self._bytes_by_id
        try:
            return b"".join([tokens[i] for i in numbers]).decode(errors="replace")
        except (KeyError, TypeError):
            bad = next(i for i in numbers if not isinstance(i, Hashable) or i not in tokens)
            raise DataError(
                msg(
                    "expected ids from 0 to {last} (vocabulary of {vocab_size}), got {bad}: "
                    "were these ids made by another tokenizer?",
                    last=self.vocab_size - 1,
                    vocab_size=self.vocab_size,
                    bad=str(bad)[:40],
                )
            ) from None

    def decode_chunks(self, ids: IdArray, errors: str = "replace") -> Iterator[str]:
        """The text of many ids in non-empty chunks; `errors` is as of Python's decoders.

        A list of a million Python objects is 8 MB, which a chunk does not need.
        """
        spelled = self.token_bytes()
        utf8 = codecs.getincrementaldecoder("utf-8")(errors)
        for start in range(0, len(ids), DECODED_AT_ONCE):
            part = ids[start : start + DECODED_AT_ONCE].tolist()
            if text := utf8.decode(b"".join(map(spelled.__getitem__, part))):
                yield text
        if text := utf8.decode(b"", final=True):
            yield text

    def fit(self, text: str, policy: str = "error") -> tuple[str, str]:
        """A text that can be encoded, and one line on what was changed ("" for no change).

        The same text in other line ends or another Unicode form is taken in the form that the
        vocabulary has; CRLF and CR become LF where ``text_has_cr`` is False. ``policy`` decides
        about unknown characters: "error" raises, "skip" removes them, "replace" substitutes the
        closest known ones.
        Raises: UnknownCharacterError, with the position in the text as given; ConfigError for any
        other policy.
        """
        expect_one_of(policy, UNKNOWN_POLICIES, msg("a policy for unknown characters"))
        fitted, note = in_known_characters(
            text, lambda c: self.knows(c) and (c != "\r" or self.text_has_cr is not False)
        )
        unknown = {c for c in set(fitted) if not self.knows(c)}
        if not unknown:
            return fitted, note
        if policy == "error":
            raise self._unknown_character(text, among=unknown)
        counts = Counter({c: n for c, n in Counter(fitted).items() if c in unknown})
        replacements = {c: self._substitute(c) if policy == "replace" else "" for c in counts}
        note = joined("; ", filter(None, [note, summary(counts, replacements, policy)]))
        return fitted.translate(str.maketrans(replacements)), note

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``tokenizer.json``. Raises: DataError if it cannot be written."""
        try:
            Path(path).write_bytes(self.to_json().encode())
        except OSError as error:
            raise DataError(
                msg(
                    "cannot write the tokenizer to {path}: {strerror}",
                    path=path,
                    strerror=reason(error),
                )
            ) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size})"

    @cached_property
    def _bytes_by_id(self) -> dict[int, bytes]:
        # In a list, -1 would be the last token.
        return dict(enumerate(self.token_bytes()))

    def _substitute(self, character: str) -> str:
        known = (s for s in substitutes(character) if all(map(self.knows, s)))
        return next(known, self.decode([0]))

    def _unknown_character(
        self, text: str, characters: int = 0, lines: int = 0, among: Collection[str] = ()
    ) -> UnknownCharacterError:
        """The error for the first unknown character after so many characters and lines.

        The first one in `among`, where that is there.
        """
        at = next((i for i, c in enumerate(text) if c in among), -1)
        if at < 0:
            at = next(i for i, c in enumerate(text) if not self.knows(c))
        line = lines + text.count("\n", 0, at) + 1
        return UnknownCharacterError(
            msg(
                "the tokenizer does not know {character}, character {place:,} of the text, "
                "on line {line:,}:\n{excerpt}\nuse --unknown skip to leave such characters out, "
                "--unknown replace to substitute the closest known ones, or train on a text "
                "that has them",
                character=describe(text[at]),
                place=characters + at + 1,
                line=line,
                excerpt=excerpt(text, at),
            )
        )


def expect_one_of(value: str, choices: Sequence[str], what: str) -> None:
    """Check a choice. Raises: ConfigError with the choices and a suggestion."""
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, 1)
        hint = msg(" (did you mean {near}?)", near=close[0]) if close else ""
        raise ConfigError(
            msg(
                "expected {what} among {choices}; got {value!r}{hint}",
                what=what,
                choices=", ".join(choices),
                value=value,
                hint=hint,
            )
        )
