"""What every source of weights gives: settings of a model, its tokenizer, and tensors by name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from hornbook.config import FIELDS
from hornbook.errors import ConfigError, HornbookError
from hornbook.language import msg
from hornbook.models.mixture import GPTWithCounts
from hornbook.plan.tuning import LORA_RATE, RATE
from hornbook.storage.files import open_regular
from hornbook.text.chat import simple_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from hornbook.config import Request
    from hornbook.models.language_model import LanguageModel
    from hornbook.models.schema import Shape
    from hornbook.text.tokenizer import Tokenizer

# Larger than any model that this is for: what a config.json may say at most.
# Settings that do not change what a model computes. The block is our own GPT's window.
FREE = {"pretrained", "lora_rank", "dropout", "with_counts", "with_mixer", "counted_tokens",
        "newlines", "normalize", "order", "smoothing", "add_k"}  # fmt: skip
FREE_ELSEWHERE = {"block_size", "context_length"}
MOST_LAYERS, MOST_WIDTH, MOST_PARAMETERS = 1024, 1 << 20, 1 << 37


# In front of the names of weights that join a run's network to its n-grams.
GATE = "gate:"


class SourceError(HornbookError):
    """A model to begin from that is missing, damaged, or of a kind that is not supported."""


@dataclass(frozen=True)
class Source:
    """A model to begin from.

    `settings` are of ModelConfig and DataConfig. `tensors` gives the weights by our names, one at a
    time, so that no second copy of a model is in memory.
    `facts` are recorded in the run: where it came from, at which revision, with which hash.
    """

    name: str
    settings: Mapping[str, Any]
    tokenizer: Tokenizer
    tensors: Callable[[], Iterator[tuple[str, Tensor]]]
    facts: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    # Tokens that another tokenizer has and this one had not, and the old ids of the others.
    grown: Mapping[int, int] | None = None
    # Settings of the optimizer, where not those for a model that AdamW has trained.
    rates: Mapping[str, Any] = field(default_factory=dict)

    def under(self, request: Request) -> Request:
        """A request with these settings below what was requested.

        Raises: ConfigError where a shape was requested that the source does not have.
        """
        free = FREE if self.settings.get("context_length") is None else FREE | FREE_ELSEWHERE
        for name, value in self.settings.items():
            given = getattr(getattr(request.config, FIELDS[name]), name)
            if name not in free and request.requested(name) and given != value:
                raise ConfigError(
                    msg(
                        "{name} = {given!r}: the model to begin from has {value!r}, and a "
                        "trained model keeps its shape and its tokenizer",
                        name=name,
                        given=given,
                        value=value,
                    )
                )
        values = {
            name: value
            for name, value in self.settings.items()
            if name == "pretrained" or not request.requested(name)
        }
        data = request.config.data
        if data.conversations and data.chat_template is None:
            values["chat_template"] = self.chat_template or simple_template(self.tokenizer)
        # The usual rates are for models from nothing, and would undo what was learned.
        rates: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.0, **self.rates}
        if not self.rates:
            alone = request.config.model.lora_rank is None
            rates |= {"learning_rate": RATE if alone else LORA_RATE}
        rates |= {"warmup_fraction": 0.05, "decay_fraction": 1.0}
        free_rates = {name: each for name, each in rates.items() if not request.requested(name)}
        return request.layer({"preset": values, "default": free_rates})

    def load_into(self, model: LanguageModel) -> None:
        """Copy the weights into a model of its settings; what only the model has stays as it is.

        Raises: SourceError for weights that are missing or of another shape.
        """
        network = model.network if isinstance(model, GPTWithCounts) else model
        # A tied table is there once, and LoRA's factors are the model's own.
        expected = dict(network.named_parameters())
        missing = {name for name in expected if ".lora." not in name}
        gate = dict(model.named_parameters()) if network is not model else {}
        for name, tensor in self.tensors():
            if name.startswith(GATE):
                mine = gate.get(name.removeprefix(GATE))
                if mine is not None and mine.shape == tensor.shape:
                    mine.data.copy_(tensor)
                continue
            ours = expected.get(name)
            if ours is None:
                raise SourceError(
                    msg(
                        "{where}: a weight {name!r} that the model does not have",
                        where=self.name,
                        name=name,
                    )
                )
            with torch.no_grad():
                ours.copy_(self.fitted(name, tensor, tuple(ours.shape)))
            missing.discard(name)
        if missing:
            raise SourceError(
                msg("{where}: no weight for {name!r}", where=self.name, name=min(missing))
            )

    def fitted(self, name: str, tensor: Tensor, shape: Shape) -> Tensor:
        """A weight in the shape that the model has: rows that no token has are left out.

        Where the alphabet has grown, a new token's row is the mean of all others.
        Raises: SourceError for another shape.
        """
        if self.grown is not None and name in ("embedding.weight", "logits.weight"):
            rows = tensor.mean(dim=0, keepdim=True).repeat(shape[0], 1)
            new, old = map(list, zip(*self.grown.items(), strict=True))
            rows[new] = tensor[old].to(rows.dtype)
            return rows
        if name in ("embedding.weight", "logits.weight") and tensor.ndim == 2:
            tensor = tensor[: shape[0]]
        if tuple(tensor.shape) != shape:
            raise misshapen(self.name, name, shape, tuple(tensor.shape))
        return tensor

    def renamed(self, **changes: Any) -> Source:
        """A copy with some facts or names changed."""
        return replace(self, **changes)


def misshapen(where: str, name: str, expected: Shape, found: Shape) -> SourceError:
    """The error of a weight that has another shape than the settings say."""
    return SourceError(
        msg(
            "{where}: the weight {name!r} has the shape {found}, expected {expected}",
            where=where,
            name=name,
            found=list(found),
            expected=list(expected),
        )
    )


def check_shapes(
    where: str, expected: Mapping[str, Shape], found: Mapping[str, Shape], vocab_size: int
) -> None:
    """Compare names and shapes before any memory is taken.

    Tables may have more rows than the tokenizer has tokens, and never fewer.
    Raises: SourceError with the first that differs.
    """
    for name, shape in expected.items():
        if name not in found:
            raise SourceError(msg("{where}: no weight for {name!r}", where=where, name=name))
        rows, *rest = found[name] or (0,)
        table = name in ("embedding.weight", "logits.weight")
        if table and rows < vocab_size:
            raise SourceError(
                msg(
                    "{where}: the vocabulary does not fit: {vocab_size:,} tokens, and {rows:,} "
                    "rows in {name!r}",
                    where=where,
                    vocab_size=vocab_size,
                    rows=rows,
                    name=name,
                )
            )
        if (tuple(rest) != shape[1:]) if table else (found[name] != shape):
            raise misshapen(where, name, shape, found[name])
    if extra := sorted(found.keys() - expected.keys()):
        raise SourceError(
            msg(
                "{where}: a weight {name!r} that this architecture does not have",
                where=where,
                name=extra[0],
            )
        )


def bounded(where: str, name: str, value: object, most: int) -> int:
    """A size from somebody's file: a whole number from 1 to `most`. Raises: SourceError."""
    if type(value) is not int or not 1 <= value <= most:
        raise SourceError(
            msg(
                "{where}: {name} = {value}: expected a whole number from 1 to {most:,}",
                where=where,
                name=name,
                value=str(value)[:40],
                most=most,
            )
        )
    return value


def check_size(where: str, shapes: Mapping[str, Shape]) -> None:
    """Raises: SourceError for more parameters than any model that this is for."""
    if (total := sum(map(prod, shapes.values()))) > MOST_PARAMETERS:
        raise SourceError(
            msg(
                "{where}: {total:,} parameters, expected at most {most_parameters:,}",
                where=where,
                total=total,
                most_parameters=MOST_PARAMETERS,
            )
        )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
