"""A GGUF file as a model to begin from: its metadata to settings and a tokenizer, its weights."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from hornbook.config import Config
from hornbook.errors import ConfigError, DataError, display_path
from hornbook.language import msg
from hornbook.pretrained.architectures import SUPPORTED, settings_of, shapes_of, unsupported
from hornbook.pretrained.gguf_reader import GGUFFile
from hornbook.pretrained.names import gguf_parts
from hornbook.pretrained.source import (
    MOST_WIDTH,
    Source,
    SourceError,
    bounded,
    check_shapes,
    check_size,
    sha256_of,
)
from hornbook.text.chat import INSTALL
from hornbook.text.tokenizer.pretrained import (
    LLAMA3_PATTERN,
    QWEN_PATTERN,
    PretrainedTokenizer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from hornbook.pretrained.names import Part

BYTE_LEVEL: Final = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
# How a text is split before merging, by the name that llama.cpp has for it.
SPLITS: Final[dict[str, list[Any]]] = {
    "gpt-2": [],
    "smollm": [{"type": "Digits", "individual_digits": True}],
    "llama-bpe": [LLAMA3_PATTERN],
    "qwen2": [QWEN_PATTERN],
}
# Llama 3.1, 3.2 and 3.3: their factors, except the first, and their length before scaling.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
CONTROL, USER_DEFINED = 3, 4


def open_gguf(path: Path) -> Source:
    """The model in a GGUF file.

    Raises: SourceError for a damaged file and for what is not supported; ConfigError without gguf.
    """
    if not find_spec("gguf"):
        raise ConfigError(
            msg(
                "--from {path} needs the package gguf: {install}",
                path=display_path(path),
                install=INSTALL,
            )
        )
    file, where = GGUFFile(path), display_path(path)
    fields = file.fields
    settings = settings_of(where, as_config(where, file))
    tokenizer = tokenizer_of(where, fields)
    config = Config().override(**settings).model
    parts = gguf_parts(config, permuted=fields["general.architecture"] == "llama")
    expected = shapes_of(config, tokenizer.vocab_size)
    check_size(where, expected)
    found = {
        ours: part.shape(file.tensors[part.name].shape)
        for ours, part in parts.items()
        if part.name in file.tensors
    }
    check_shapes(where, expected, found, tokenizer.vocab_size)
    extra = file.tensors.keys() - {part.name for part in parts.values()} - {"rope_freqs.weight"}
    if extra:
        raise SourceError(
            msg(
                "{where}: a weight {name!r} that it should not have",
                where=where,
                name=min(extra)[:60],
            )
        )
    template = fields.get("tokenizer.chat_template")
    return Source(
        name=str(path.resolve()),
        settings={**settings, "pretrained": str(path.resolve()), "tokenizer": "pretrained"},
        tokenizer=tokenizer,
        tensors=lambda: tensors(file, parts),
        facts={
            "format": "gguf",
            "architecture": fields["general.architecture"],
            "name": str(fields.get("general.name", ""))[:200],
            "license": str(fields.get("general.license", ""))[:200],
            "sha256": {path.name: sha256_of(path)},
        },
        chat_template=template if isinstance(template, str) else None,
    )


def as_config(where: str, file: GGUFFile) -> dict[str, Any]:
    """The metadata as the `config.json` that it was made from. Raises: SourceError."""
    fields = file.fields
    kind = fields.get("general.architecture")
    if kind not in ("llama", "qwen3", "gpt2"):
        raise unsupported(where, kind)

    def field(name: str, default: object = None) -> Any:
        return fields.get(f"{kind}.{name}", default)

    tied = "output.weight" not in file.tensors
    shared = {"model_type": kind, "tie_word_embeddings": tied}
    if kind == "gpt2":
        return shared | {
            "n_layer": field("block_count"),
            "n_head": field("attention.head_count"),
            "n_embd": field("embedding_length"),
            "n_inner": field("feed_forward_length"),
            "n_positions": field("context_length"),
            "layer_norm_epsilon": shorter(field("attention.layer_norm_epsilon", 1e-5)),
        }
    if kind == "llama" and field("expert_count"):
        raise SourceError(
            msg("{where}: a mixture of experts; {supported}", where=where, supported=SUPPORTED)
        )
    return shared | {
        "num_hidden_layers": field("block_count"),
        "num_attention_heads": field("attention.head_count"),
        "num_key_value_heads": field("attention.head_count_kv"),
        "hidden_size": field("embedding_length"),
        "intermediate_size": field("feed_forward_length"),
        "head_dim": field("attention.key_length"),
        "max_position_embeddings": field("context_length"),
        "rms_norm_eps": shorter(field("attention.layer_norm_rms_epsilon", 1e-6)),
        "rope_parameters": rotary_of(where, file, shorter(field("rope.freq_base", 10_000.0))),
    }


def shorter(value: Any) -> Any:
    """A float32 as the decimal that it was written from: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def rotary_of(where: str, file: GGUFFile, base: object) -> dict[str, Any]:
    """Rotary positions. Raises: SourceError for another scaling than Llama 3's."""
    kind = file.fields["general.architecture"]
    scaling = file.fields.get(f"{kind}.rope.scaling.type", "none")
    if "rope_freqs.weight" not in file.tensors:
        return {"rope_theta": base, "rope_type": "default" if scaling == "none" else scaling}
    found = file.tensor("rope_freqs.weight")
    if found.size > MOST_WIDTH or not found.size or not isinstance(base, float):
        raise SourceError(
            msg("{where}: rope_freqs.weight: not the scaling of a Llama 3", where=where)
        )
    from hornbook.models.schema import RotaryScaling

    rotary = {"rope_theta": base, "rope_type": "llama3", "factor": float(found.max()), **LLAMA3}
    frequencies = base ** -(torch.arange(found.size) / found.size)
    expected = frequencies / RotaryScaling(rotary["factor"], 1.0, 4.0, 8192).slowed(frequencies)
    if not np.allclose(found, expected.numpy(), rtol=1e-3):
        raise SourceError(
            msg("{where}: rope_freqs.weight: not the scaling of a Llama 3", where=where)
        )
    return rotary


def tokenizer_of(where: str, fields: Mapping[str, Any]) -> PretrainedTokenizer:
    """The tokenizer that the metadata describe. Raises: SourceError for another than BPE."""
    model, split = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "gpt-2")
    if model != "gpt2" or split not in SPLITS:
        raise SourceError(
            msg(
                "{where}: a tokenizer of the kind {model!r} ({split!r}); supported is "
                "byte-level BPE, split as {known} do it",
                where=where,
                model=str(model)[:40],
                split=str(split)[:40],
                known=", ".join(SPLITS),
            )
        )
    names = ("tokens", "merges")
    tokens, merges = (listed(where, fields.get(f"tokenizer.ggml.{name}")) for name in names)
    kinds = listed(where, fields.get("tokenizer.ggml.token_type", [1] * len(tokens)))
    if len(kinds) != len(tokens) or not all(isinstance(token, str) for token in tokens):
        raise SourceError(msg("{where}: a vocabulary without a kind for each token", where=where))
    if len(set(tokens)) < len(tokens):
        raise SourceError(msg("{where}: a vocabulary with a token twice", where=where))
    bounded(where, msg("the number of tokens"), len(tokens), MOST_WIDTH)
    added = [
        {"id": i, "content": token, "special": kind == CONTROL, "single_word": False,
         "lstrip": False, "rstrip": False, "normalized": False}
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]  # fmt: skip
    patterns = [each if isinstance(each, dict) else splitting(each) for each in SPLITS[str(split)]]
    whole = any("pattern" in each for each in patterns)
    steps = [*patterns, {**BYTE_LEVEL, "use_regex": not whole}]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if split == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {**BYTE_LEVEL, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": split == "llama-bpe",
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges,
        },
    }  # fmt: skip
    try:
        return PretrainedTokenizer(document)
    except DataError as error:
        raise SourceError(msg("{where}: {error}", where=where, error=error)) from None


def listed(where: str, value: object) -> list[Any]:
    """A list of the metadata. Raises: SourceError."""
    if not isinstance(value, list):
        raise SourceError(msg("{where}: a vocabulary without all its parts", where=where))
    return value


def splitting(pattern: str) -> dict[str, Any]:
    """A step that makes each match of a pattern a piece of its own."""
    expression = {"Regex": pattern}
    return {"type": "Split", "pattern": expression, "behavior": "Isolated", "invert": False}


def tensors(file: GGUFFile, parts: Mapping[str, Part]) -> Iterator[tuple[str, Tensor]]:
    """Each of our weights in float32."""
    for ours, part in parts.items():
        yield ours, part.of(torch.from_numpy(file.tensor(part.name)))
    file.let_go()
