"""The shape of a model that is named by its size: 124m, 1.3b, 7b."""

import math
import re
from itertools import pairwise

from hornbook.config import ModelConfig
from hornbook.errors import ConfigError
from hornbook.language import msg
from hornbook.models.schema import Schema

UNITS = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
# Layers, width and heads. Brown et al. 2020, arXiv:2005.14165, table 2.1, with heads of 128
# channels from 760 million parameters on, where fused attention is fastest.
SHAPES = [
    (12, 768, 12),
    (24, 1024, 16),
    (24, 1536, 12),
    (24, 2048, 16),
    (32, 2560, 20),
    (32, 4096, 32),
    (40, 5120, 40),
    (48, 7168, 56),
    (80, 8192, 64),
    (96, 12288, 96),
]
# A size within 12% of a shape's means this shape.
NEAR = 0.12
# And no shape is so far from the size that it was named for.
FAR = 0.25


def amount(text: str, what: str) -> float:
    """A number with a unit: 26b -> 26e9.

    Raises: ConfigError.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmbt]?)", text.strip().lower().replace(",", ""))
    value = float(found[1]) * UNITS.get(found[2], 1.0) if found else 0.0
    if not 0 < value <= 1e16:
        raise ConfigError(
            msg("{what} {text!r}: expected a number like 124m, 1.3b or 26b", what=what, text=text)
        )
    return value


def sized(size: str, vocab_size: int) -> ModelConfig:
    """The GPT of about so many parameters, its tables tied.

    Raises: ConfigError for a size that is none, or beyond 1 million to 1 trillion.
    """
    wanted = amount(size, "--model")
    if not 1e6 <= wanted <= 1e12:
        raise ConfigError(msg("--model {size}: expected from 1m to 1t parameters", size=size))

    def off(shape: tuple[int, int, int]) -> float:
        return abs(math.log(shaped(shape, wanted).parameter_count(vocab_size) / wanted))

    nearest = min(SHAPES, key=off)
    if off(nearest) > NEAR:
        widths = [*range(64, 1024, 64), *range(1024, 32_768, 128)]
        between = [
            (depth(width), width, width // (64 if width < 1536 else 128)) for width in widths
        ]
        nearest = min(between, key=off)
    if off(nearest) > FAR:
        raise ConfigError(
            msg(
                "--model {size}: with {vocab_size:,} tokens there is no shape of about that "
                "size; give one by --set n_layer=... --set n_embd=... --set n_head=..., or a "
                "smaller --vocabulary",
                size=size,
                vocab_size=vocab_size,
            )
        )
    return shaped(nearest, wanted)


def depth(width: int) -> int:
    """The layers of a model of that width: between those of the table's two neighbours."""
    if width <= SHAPES[0][1]:
        return max(2, round(width / 64))
    for (fewer, narrow, _), (more, wide, _) in pairwise(SHAPES):
        if width <= wide:
            return round(fewer + (more - fewer) * (width - narrow) / (wide - narrow))
    return round(width / 128)


def shaped(shape: tuple[int, int, int], size: float) -> ModelConfig:
    """A GPT of that many layers, width and heads, with blocks of GPT-2's or GPT-3's length."""
    n_layer, n_embd, n_head = shape
    return ModelConfig(
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        block_size=1024 if size < 1e9 else 2048,
        tie_embeddings=True,
    )


def usual_batch(size: float) -> float:
    """Tokens a step: Brown et al. 2020, table 2.1, rounded to powers of two."""
    for most, tokens in ((1e9, 2**19), (6e9, 2**20), (20e9, 2**21)):
        if size < most:
            return tokens
    return 2**22


def described(schema: Schema, block_size: int) -> str:
    """A model's shape in words."""
    return msg(
        "{layers} layers, {width:,} wide, {heads} heads, blocks of {block_size:,} tokens, "
        "{parameters:,} parameters",
        layers=schema.n_layer,
        width=schema.n_embd,
        heads=schema.n_head,
        block_size=block_size,
        parameters=schema.parameters,
    )
