"""Checkpoints in shards, which several processes write together: each its rows of every tensor.

    model-00001-of-00002.safetensors   model-00002-of-00002.safetensors

A tensor is what the files have of it, one below the other in the order of their numbers. Names,
shapes and hashes are those of safetensors and of the manifest; there is no other index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from hornbook.language import msg

Rows = TypeVar("Rows")

NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})")


def shard_name(name: str, number: int, count: int) -> str:
    """The name of a shard's file without its suffix; numbers begin at 1."""
    return f"{name}-{number:05d}-of-{count:05d}"


def whole_name(name: str) -> str:
    """The name of the file that a shard is a part of; another file's own name."""
    found = NAME.fullmatch(name)
    return found[1] if found else name


def in_order(names: list[str]) -> dict[str, list[str]]:
    """The files that make up each whole one, first to last.

    Raises: ValueError when one is missing.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(whole_name(name), []).append(name)
    for whole, parts in found.items():
        expected = [shard_name(whole, number, len(parts)) for number in range(1, len(parts) + 1)]
        if parts not in ([whole], expected):
            raise ValueError(
                msg("expected the shards {expected}, found {parts}", expected=expected, parts=parts)
            )
    return found


def joined(
    files: Mapping[str, Mapping[str, Rows]], concatenate: Callable[[list[Rows]], Rows]
) -> dict[str, dict[str, Rows]]:
    """The tensors of each whole file from those of its shards.

    Raises: ValueError when a shard is missing; what `concatenate` raises for other shapes.
    """
    made: dict[str, dict[str, Rows]] = {}
    for whole, names in in_order(list(files)).items():
        parts: dict[str, list[Rows]] = {}
        for name in names:
            for tensor, rows in files[name].items():
                parts.setdefault(tensor, []).append(rows)
        made[whole] = {
            tensor: rows[0] if len(rows) == 1 else concatenate(rows)
            for tensor, rows in parts.items()
        }
    return made
