"""A folder in Hugging Face's format: `config.json`, `tokenizer.json`, safetensors.

Pickles (`pytorch_model.bin`) and code (`auto_map`) are not read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from hornbook.config import Config
from hornbook.errors import DataError, display_path, reason
from hornbook.language import msg
from hornbook.pretrained.architectures import settings_of, shapes_of
from hornbook.pretrained.names import hf_parts
from hornbook.pretrained.source import Source, SourceError, check_shapes, check_size, sha256_of
from hornbook.storage.files import JSON_BYTES, open_regular, read_json, read_regular
from hornbook.text.tokenizer.pretrained import PretrainedTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from hornbook.models.schema import Shape
    from hornbook.pretrained.names import Part
    from hornbook.text.tokenizer import Tokenizer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Wider types than these are none that weights come in; narrower ones need scales from elsewhere.
DTYPES = {"F64", "F32", "F16", "BF16"}
TEMPLATE_BYTES = 1 << 20
MOST_FILES = 1000


def open_folder(path: Path, **facts: Any) -> Source:
    """The model in a folder; its weights are read when they are needed.

    Raises: SourceError for a missing or damaged file, and for what is not supported.
    """
    where = display_path(path)
    document = object_in(path / "config.json")
    settings = settings_of(where, document)
    tokenizer = tokenizer_of(path)
    config = Config().override(**settings).model
    parts = hf_parts(config)
    files = weight_files(path)
    found = stored_shapes(files)
    prefixed = GPT2_PREFIX if any(name.startswith(GPT2_PREFIX) for name in found) else ""
    if config.model == "gpt2":
        parts = {
            ours: part._replace(name=part.name if ours == "logits.weight" else prefixed + part.name)
            for ours, part in parts.items()
        }
    expected = shapes_of(config, tokenizer.vocab_size)
    check_size(where, expected)
    check_shapes(where, expected, ours_of(where, parts, found), tokenizer.vocab_size)
    return Source(
        name=str(path.resolve()),
        settings={**settings, "pretrained": str(path.resolve()), "tokenizer": "pretrained"},
        tokenizer=tokenizer,
        tensors=lambda: tensors(where, parts, found, files),
        facts={
            "format": "hf",
            "architecture": document["model_type"],
            **facts,
            "sha256": {name.name: sha256_of(name) for name in sorted({*files.values()})},
        },
        chat_template=template_of(path),
    )


GPT2_PREFIX = "transformer."


def object_in(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises: SourceError."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        raise SourceError(
            msg(
                "{parent}: no {name} in it; expected a run, a folder in Hugging Face's format "
                "with safetensors, or a GGUF file",
                parent=display_path(path.parent),
                name=path.name,
            )
        ) from None
    except (OSError, ValueError) as error:
        raise SourceError(
            msg("{path}: cannot be read: {why}", path=display_path(path), why=reason(error))
        ) from None
    if not isinstance(found, dict):
        raise SourceError(msg("{path}: expected a JSON object", path=display_path(path)))
    return found


def tokenizer_of(path: Path) -> Tokenizer:
    """The tokenizer of a folder. Raises: SourceError."""
    from hornbook.text.tokenizer import load_tokenizer

    file = path / "tokenizer.json"
    document = object_in(file)
    try:
        # One that hornbook exported is hornbook's own again.
        if document.get("added_tokens"):
            return PretrainedTokenizer(document)
        try:
            return load_tokenizer(file)
        except DataError:
            return PretrainedTokenizer(document)
    except DataError as error:
        raise SourceError(msg("{file}: {error}", file=display_path(file), error=error)) from None


def weight_files(path: Path) -> dict[str, Path]:
    """The file of each weight, by the name that the file has for it.

    Raises: SourceError for an index that names files elsewhere, and where there are none.
    """
    if (path / WEIGHTS).exists():
        return dict.fromkeys(names_in(path / WEIGHTS), path / WEIGHTS)
    if not (path / INDEX).exists():
        pickled = next(path.glob("*.bin"), None)
        only = ""
        if pickled:
            only = msg("; {name} is a pickle, which can run code: not read", name=pickled.name)
        raise SourceError(
            msg(
                "{path}: no {weights} in it{only}",
                path=display_path(path),
                weights=WEIGHTS,
                only=only,
            )
        )
    listed = object_in(path / INDEX).get("weight_map")
    names = set(listed.values()) if isinstance(listed, dict) else {None}
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.-]*\.safetensors", name):
            raise SourceError(
                msg(
                    "{path}: names {name!r}, which is no safetensors file of the folder",
                    path=display_path(path / INDEX),
                    name=str(name)[:60],
                )
            )
    if len(names) > MOST_FILES:
        raise SourceError(
            msg(
                "{path}: names {number:,} files", path=display_path(path / INDEX), number=len(names)
            )
        )
    found: dict[str, Path] = {}
    for name in sorted(names):
        found |= dict.fromkeys(names_in(path / name), path / name)
    return found


def names_in(path: Path) -> list[str]:
    """The names of the tensors in a safetensors file. Raises: SourceError."""
    with opened(path) as file:
        return list(file.keys())


def opened(path: Path) -> Any:
    """An opened safetensors file, whose header has been checked. Raises: SourceError."""
    try:
        open_regular(path).close()  # no pipe, no device
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise SourceError(
            msg("{path}: cannot be read: {why}", path=display_path(path), why=reason(error, 200))
        ) from None


def stored_shapes(files: Mapping[str, Path]) -> dict[str, Shape]:
    """The shape of each stored tensor, from the headers. Raises: SourceError for other dtypes."""
    found: dict[str, Shape] = {}
    for path in sorted({*files.values()}):
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (not a dictionary)
                piece = file.get_slice(name)
                if piece.get_dtype() not in DTYPES:
                    raise SourceError(
                        msg(
                            "{path}: {name!r} is of the type {dtype}; supported are {known}",
                            path=display_path(path),
                            name=name,
                            dtype=piece.get_dtype(),
                            known=", ".join(sorted(DTYPES)),
                        )
                    )
                found[name] = tuple(piece.get_shape())
    return found


def ours_of(where: str, parts: Mapping[str, Part], found: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes of what is stored, under our names and as our weights will have them.

    Raises: SourceError for a stored weight that no weight of ours comes from.
    """
    shapes: dict[str, Shape] = {}
    for ours, part in parts.items():
        if part.name in found:
            shapes[ours] = part.shape(found[part.name])
    used = {part.name for part in parts.values()}
    for name in sorted(found.keys() - used):
        # Buffers of older versions, and a tied table that was saved under both its names.
        if not re.search(r"(\.attn\.(masked_)?bias|rotary_emb\.inv_freq|^lm_head\.weight)$", name):
            raise SourceError(
                msg(
                    "{where}: a weight {name!r} that this architecture does not have",
                    where=where,
                    name=name,
                )
            )
    return shapes


def tensors(
    where: str, parts: Mapping[str, Part], found: Mapping[str, Shape], files: Mapping[str, Path]
) -> Iterator[tuple[str, Tensor]]:
    """Each of our weights in float32. A file that has changed meanwhile raises SourceError."""
    for ours, part in parts.items():
        with opened(files[part.name]) as file:
            stored: Tensor = file.get_tensor(part.name)
        if tuple(stored.shape) != found[part.name]:
            raise SourceError(
                msg("{where}: {name!r} has changed while it was read", where=where, name=part.name)
            )
        yield ours, part.of(stored).float()


def template_of(path: Path) -> str | None:
    """The chat template of a folder: a file of its own, or in `tokenizer_config.json`."""
    try:
        return read_regular(path / "chat_template.jinja", TEMPLATE_BYTES).decode()
    except (OSError, ValueError):
        pass
    try:
        found = read_json(path / "tokenizer_config.json", JSON_BYTES)
    except (OSError, ValueError):
        return None
    template = found.get("chat_template") if isinstance(found, dict) else None
    return template if isinstance(template, str) and len(template) < TEMPLATE_BYTES else None
