"""The vocabularies of a GGUF file: ours, and those of models from elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from hornbook.errors import ConfigError
from hornbook.language import msg
from hornbook.text.chat import end_of_answers
from hornbook.text.tokenizer.pretrained import (
    LLAMA3_PATTERN,
    QWEN_PATTERN,
    PretrainedTokenizer,
    parts_of,
)

if TYPE_CHECKING:
    import gguf

    from hornbook.text.tokenizer import Tokenizer

# Text goes in and out as it is.
CHAT_TEMPLATE: Final = "{% for message in messages %}{{ message.content }}{% endfor %}"
NEVER_IN_TEXT: Final = b"\xff"
TEXT, CONTROL, USER_DEFINED = 1, 3, 4
# What ends a text in the models that are known, where no chat template says it.
ENDS: Final = ("<|endoftext|>", "<|end_of_text|>", "</s>")


def write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, template: str | None) -> None:
    """Write the vocabulary and the chat template; without one, text goes in and out as it is.

    Characters and bytes are split by RWKV's tokenizer, which takes the longest token that fits. It
    alone has no default end of text: with any other, llama.cpp would take token 11 for it and stop
    at a semicolon. BPE has the byte 0xFF for it, which no text contains.
    Raises: ConfigError for a tokenizer that splits text as llama.cpp does not.
    """
    if isinstance(tokenizer, PretrainedTokenizer):
        write_pretrained(writer, tokenizer, template)
    elif tokenizer.kind == "bpe":
        model = json.loads(tokenizer.to_json())["model"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(sorted(model["vocab"], key=model["vocab"].__getitem__))
        # An empty list is not written, and llama.cpp refuses a file without one.
        writer.add_token_merges([" ".join(pair) for pair in model["merges"]] or ["ÿ ÿ"])
        end = tokenizer.token_bytes().index(NEVER_IN_TEXT)
        writer.add_bos_token_id(end)
        writer.add_eos_token_id(end)
    else:
        writer.add_tokenizer_model("rwkv")
        writer.add_token_list([escaped(token) for token in tokenizer.token_bytes()])
        if (end := end_of_answers(template, tokenizer) if template else None) is not None:
            writer.add_eos_token_id(end)
    if not isinstance(tokenizer, PretrainedTokenizer):
        writer.add_token_types([1] * tokenizer.vocab_size)  # all of them plain text
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(template or CHAT_TEMPLATE)


def write_pretrained(
    writer: gguf.GGUFWriter, tokenizer: PretrainedTokenizer, template: str | None
) -> None:
    """Write the vocabulary of a model from elsewhere, with its special tokens.

    Raises: ConfigError where it splits text as llama.cpp does not.
    """
    document = json.loads(tokenizer.to_json())
    vocab, merges = document["model"]["vocab"], document["model"]["merges"]
    added = {each["id"]: each for each in document.get("added_tokens") or []}
    tokens = {i: token for token, i in vocab.items()} | {i: e["content"] for i, e in added.items()}
    types = [
        TEXT if i not in added else CONTROL if added[i]["special"] else USER_DEFINED
        for i in range(tokenizer.vocab_size)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting_of(document))
    writer.add_token_list([tokens[i] for i in range(tokenizer.vocab_size)])
    writer.add_token_types(types)
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in merges)
    writer.add_token_merges(list(pairs) or ["ÿ ÿ"])
    end = end_of_answers(template, tokenizer) if template else None
    if end is None:
        ends = (tokenizer.special.get(name) for name in ENDS)
        end = next((each for each in ends if each is not None), None)
    if end is None:
        end = next(iter(tokenizer.special.values()), 0)
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)


def splitting_of(document: dict[str, Any]) -> str:
    """llama.cpp's name for how a text is split before merging. Raises: ConfigError."""
    steps = parts_of(document.get("pre_tokenizer"), "pretokenizers")
    patterns = [step["pattern"] for step in steps if step["type"] == "Split"]
    digits = [step.get("individual_digits") for step in steps if step["type"] == "Digits"]
    known: dict[str, tuple[list[Any], list[Any]]] = {
        "gpt-2": ([], []),
        "smollm": ([], [True]),
        "llama-bpe": ([{"Regex": LLAMA3_PATTERN}], []),
        "qwen2": ([{"Regex": QWEN_PATTERN}], []),
    }
    for name, parts in known.items():
        if parts == (patterns, digits):
            return name
    raise ConfigError(
        msg(
            "--to gguf: this model's tokenizer splits a text as none of {known} does, and "
            "llama.cpp needs one of them",
            known=", ".join(known),
        )
    )


def escaped(token: bytes) -> str:
    """A token as RWKV's vocabularies write it."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != ord("\\") else f"\\x{byte:02x}"
        for byte in token
    )
