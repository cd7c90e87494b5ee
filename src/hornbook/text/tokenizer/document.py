"""The `tokenizer.json` of the tokenizers library, as hornbook writes and reads it."""

import json
from typing import Any, Final

from hornbook.errors import DataError
from hornbook.language import msg


def _byte_alphabet() -> dict[str, int]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return {chr(b if b in printable else next(spare)): b for b in range(256)}


# GPT-2's byte-level alphabet: a printable character for each byte, Ġ for the space.
BYTE_ALPHABET: Final = _byte_alphabet()

_BYTE_LEVEL: Final = {"type": "ByteLevel", "add_prefix_space": False} | {
    **dict.fromkeys(("trim_offsets", "use_regex"), True)
}
_NO_EXTRAS: Final = {
    **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
    **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
}


def to_json(kind: str, learned: dict[str, Any]) -> str:
    """The document of a tokenizer: the template of its kind with its vocabulary and merges."""
    template = _template(of_characters=kind == "char")
    document = {**template, "model": {**template["model"], **learned}}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def from_document(document: object) -> tuple[dict[str, int], list[tuple[str, str]] | None]:
    """Vocabulary and merges (None: tokens are characters). Raises: DataError if not ours."""
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(model, dict):
        raise DataError(msg("it has no model"))
    of_characters = model.get("type") == "WordLevel"
    template = _template(of_characters=of_characters)
    for name, expected in {**template, **template["model"]}.items():
        found = (model if name in template["model"] else document).get(name)
        if name != "model" and found != expected:
            raise DataError(
                msg(
                    "expected {name} {expected}, found {found}",
                    name=name,
                    expected=_brief(expected),
                    found=_brief(found),
                )
            )
    vocab, merges = model.get("vocab"), model.get("merges", [])
    if not isinstance(vocab, dict) or any(type(i) is not int for i in vocab.values()):
        raise DataError(msg("expected a vocabulary of tokens and whole numbers"))
    if of_characters:
        return vocab, None
    pairs = merges if isinstance(merges, list) else [None]
    if not all(isinstance(p, list) and [*map(type, p)] == [str, str] for p in pairs):
        raise DataError(msg("expected merges of two tokens each"))
    return vocab, [(a, b) for a, b in pairs]


def _template(*, of_characters: bool) -> dict[str, Any]:
    """The document without vocabulary and merges."""
    shared: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None}
    shared |= {"added_tokens": [], "normalizer": None, "post_processor": None}
    if not of_characters:
        model = {"type": "BPE", **_NO_EXTRAS}
        return {**shared, "pre_tokenizer": _BYTE_LEVEL, "decoder": _BYTE_LEVEL, "model": model}
    # <unk> is not in the vocabulary, so the library raises for an unknown character, as we do.
    model = {"type": "WordLevel", "unk_token": "<unk>"}
    each = {"pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    split = {"type": "Split", **each}
    return {**shared, "pre_tokenizer": split, "decoder": {"type": "Fuse"}, "model": model}


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
