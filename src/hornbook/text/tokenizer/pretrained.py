"""The tokenizer of a pre-trained model: byte-level BPE with special tokens, as its file has it."""

import json
import re
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hornbook.errors import DataError
from hornbook.language import conjunction, msg
from hornbook.text.tokenizer.base import IdArray, Tokenizer
from hornbook.text.tokenizer.bpe import (
    BATCH_CHARACTERS,
    CHUNK_CHARACTERS,
    is_encodable,
    split_after_words,
)
from hornbook.text.tokenizer.document import BYTE_ALPHABET

if TYPE_CHECKING:
    import tokenizers

MOST_TOKENS: Final = 1 << 20
MOST_TOKEN_CHARACTERS: Final = 4096
# How Llama 3 and Qwen split a text. Other patterns are refused: one like (a+)+$ never ends.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN: Final = _WORDS + r"\p{N}{1,3}" + _REST
QWEN_PATTERN: Final = _WORDS + r"\p{N}" + _REST
# Spaces, line ends and what can be printed of ASCII, written in the byte-level alphabet.
NEEDED: Final = {c for c, byte in BYTE_ALPHABET.items() if byte == 10 or 0x20 <= byte < 0x7F}
# Every known pattern splits between a letter and a space; some take line ends with punctuation.
_WORD_END: Final = re.compile(r"(?<=[^\W\d_])(?= )")


class PretrainedTokenizer(Tokenizer):
    """Byte-level BPE with special tokens, from a ``tokenizer.json`` of another program.

    A text cannot spell a special token: those come only by `encode_marked`.
    Raises: DataError for another kind of tokenizer, or parts that do not fit together.
    """

    kind = "pretrained"

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = {**document, "truncation": None, "padding": None}
        self._added = added_tokens(document)
        self._ids = checked_vocabulary(document, self._added)
        self.vocab_size = len(self._ids)
        self._known = bytes(byte for c, byte in BYTE_ALPHABET.items() if c in self._ids)
        check_splitting(document)

    @property
    def special(self) -> dict[str, int]:
        """Special tokens by the text that stands for them."""
        return {text: i for text, (i, special) in self._added.items() if special}

    def knows(self, character: str) -> bool:
        return super().knows(character) and not character.encode().translate(None, self._known)

    def encode_array(self, text: str) -> IdArray:
        # The library would drop a byte without a token silently.
        if not is_encodable(text) or text.encode().translate(None, self._known):
            raise self._unknown_character(text)
        dtype = np.min_scalar_type(self.vocab_size - 1)
        pieces = list(split_after_words([text], CHUNK_CHARACTERS, _WORD_END))
        encodings = self._library.encode_batch_fast(pieces, add_special_tokens=False)
        parts = [np.array(encoding.ids, dtype) for encoding in encodings]
        return np.concatenate([np.empty(0, dtype), *parts])

    def encode_marked(self, text: str) -> list[int]:
        """The ids of a text in which special tokens stand for themselves, as in a chat template."""
        ids: list[int] = self._marking_library.encode(text, add_special_tokens=False).ids
        return ids

    def _rechunk(self, chunks: Iterable[str]) -> Iterable[str]:
        return split_after_words(chunks, BATCH_CHARACTERS, _WORD_END)

    def token_bytes(self) -> list[bytes]:
        return [
            token.encode()
            if token in self._added
            else bytes(BYTE_ALPHABET[character] for character in token)
            for token in self._ids
        ]

    def to_json(self) -> str:
        return json.dumps(self._document, ensure_ascii=False, indent=1) + "\n"

    @cached_property
    def _library(self) -> "tokenizers.Tokenizer":
        library = self._marking_copy()
        library.encode_special_tokens = True  # as plain text, that is
        return library

    @cached_property
    def _marking_library(self) -> "tokenizers.Tokenizer":
        return self._marking_copy()

    def _marking_copy(self) -> "tokenizers.Tokenizer":
        from tokenizers import Tokenizer as LibraryTokenizer

        try:
            return LibraryTokenizer.from_str(self.to_json())
        except Exception as error:  # noqa: BLE001 - the library has no class of its own
            raise DataError(
                msg("the tokenizers library cannot read it: {error}", error=error)
            ) from None


def added_tokens(document: dict[str, Any]) -> dict[str, tuple[int, bool]]:
    """The id of each added token by its text, and whether it is special. Raises: DataError."""
    found: dict[str, tuple[int, bool]] = {}
    entries = document.get("added_tokens") or []
    if not isinstance(entries, list) or len(entries) > MOST_TOKENS:
        raise DataError(msg("expected a list of added tokens"))
    for entry in entries:
        match entry:
            case {"id": int(number), "content": str(text), "special": bool(special)} if text:
                found[text] = number, special
            case _:
                raise DataError(msg("expected added tokens with an id, a content and special"))
    return found


def checked_vocabulary(
    document: dict[str, Any], added: dict[str, tuple[int, bool]]
) -> dict[str, int]:
    """All tokens in order of their ids, 0, 1, 2, ... each once. Raises: DataError."""
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else None
        raise DataError(
            msg("expected byte-level BPE, found the kind {kind!r}", kind=str(kind)[:40])
        )
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise DataError(msg("expected a vocabulary of tokens and whole numbers"))
    # SmolLM2's lacks bytes that no UTF-8 has, some control characters, and some lead bytes.
    if model.get("byte_fallback") or not vocab.keys() >= NEEDED:
        raise DataError(
            msg(
                "expected byte-level BPE, as GPT-2, Llama 3, Qwen and SmolLM have it; this is "
                "of another kind (SentencePiece, as in Llama 2)"
            )
        )
    ids = dict(vocab) | {text: number for text, (number, _) in added.items()}
    if len(ids) > MOST_TOKENS or any(len(token) > MOST_TOKEN_CHARACTERS for token in ids):
        raise DataError(
            msg(
                "expected at most {most_tokens:,} tokens, each of a few characters",
                most_tokens=MOST_TOKENS,
            )
        )
    ids = dict(sorted(ids.items(), key=lambda item: item[1]))
    # Otherwise the library panics, or allocates memory up to the greatest id.
    if list(ids.values()) != list(range(len(ids))):
        raise DataError(msg("expected a vocabulary with the ids 0, 1, 2, ... each once"))
    alphabet = BYTE_ALPHABET.keys()
    if any(not alphabet >= set(token) for token in ids if token not in added):
        raise DataError(msg("expected tokens written in the byte-level alphabet"))
    check_merges(model.get("merges"), vocab)
    return ids


def check_merges(merges: object, vocab: dict[str, int]) -> None:
    """Check that merges are of two tokens into a third, in either of their spellings.

    Raises: DataError.
    """
    if not isinstance(merges, list) or len(merges) > MOST_TOKENS:
        raise DataError(msg("expected a list of merges"))
    for each in merges:
        pair = each.split(" ") if isinstance(each, str) else each
        if not (isinstance(pair, list) and [*map(type, pair)] == [str, str]):
            raise DataError(msg("expected merges of two tokens each"))
        first, second = pair
        if first not in vocab or second not in vocab or first + second not in vocab:
            raise DataError(msg("expected merges of two tokens of the vocabulary into a third"))


def check_splitting(document: dict[str, Any]) -> None:
    """Check that a text is split, and put together again, by what byte-level BPE needs.

    Raises: DataError naming the part that is not supported.
    """
    before = parts_of(document.get("normalizer"), "normalizers")
    split = parts_of(document.get("pre_tokenizer"), "pretokenizers")
    decoder = parts_of(document.get("decoder"), "decoders")
    for role, parts, known in (
        ("normalizer", before, {"NFC"}),
        ("pre_tokenizer", split, {"ByteLevel", "Split", "Digits"}),
        ("decoder", decoder, {"ByteLevel"}),
    ):
        for part in parts:
            kind = part.get("type")
            if kind not in known:
                raise DataError(
                    msg(
                        "expected a {role} of {known}, found {kind!r}",
                        role=role,
                        known=conjunction(sorted(known)),
                        kind=str(kind)[:40],
                    )
                )
    if not split or split[-1].get("type") != "ByteLevel":
        raise DataError(msg("expected a pre_tokenizer that ends with ByteLevel"))
    if any(part.get("add_prefix_space") for part in split):
        raise DataError(msg("expected a pre_tokenizer that adds no space"))
    patterns = [part.get("pattern") for part in split if part.get("type") == "Split"]
    if any(each not in ({"Regex": LLAMA3_PATTERN}, {"Regex": QWEN_PATTERN}) for each in patterns):
        raise DataError(msg("expected a pre_tokenizer with the pattern of Llama 3 or Qwen"))


def parts_of(stage: object, name: str) -> list[dict[str, Any]]:
    """The steps of a stage: of a sequence, of a single one, or none. Raises: DataError."""
    if stage is None:
        return []
    steps = [stage]
    if isinstance(stage, dict) and stage.get("type") == "Sequence":
        steps = stage.get(name)
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise DataError(msg("expected a list of {name}", name=name))
    return [step for step in steps if isinstance(step, dict)]
