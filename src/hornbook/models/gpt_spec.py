"""What hornbook knows of the GPT; without torch, which its generation does not import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hornbook.config import ModelSpec
from hornbook.errors import ConfigError
from hornbook.language import msg
from hornbook.models.schema import Schema

if TYPE_CHECKING:
    from hornbook.config import ModelConfig
    from hornbook.models.gpt import GPT


def network(config: ModelConfig, vocab_size: int) -> GPT:
    """The GPT of some settings, freshly initialised."""
    from hornbook.models.gpt import GPT

    return GPT(config, vocab_size)


def check(config: ModelConfig) -> None:
    """Check that a shape can have rotary positions, which turn pairs of channels.

    Raises: ConfigError.
    """
    if config.n_kv_head and config.n_head % config.n_kv_head:
        raise ConfigError(
            msg(
                "n_head = {n_head} does not split into n_kv_head = {n_kv_head} groups",
                n_head=config.n_head,
                n_kv_head=config.n_kv_head,
            )
        )
    if config.head_width:
        if config.head_width % 2:
            raise ConfigError(
                msg(
                    "head_width = {head_width}: expected an even number",
                    head_width=config.head_width,
                )
            )
    elif config.n_embd % (2 * config.n_head):
        raise ConfigError(
            msg(
                "n_embd = {n_embd} does not split into n_head = {n_head} heads of even width; a "
                "multiple of {multiple} does",
                n_embd=config.n_embd,
                n_head=config.n_head,
                multiple=2 * config.n_head,
            )
        )


SPECS = {
    "gpt": ModelSpec(
        idea=msg("today's block"),
        network=network,
        parameters=lambda config, vocab_size: Schema.of(config, vocab_size).parameters,
        activations=lambda config: (
            config.n_layer * (38.0 * config.n_embd + 2.0 * config.n_head * config.block_size)
        ),
        check=check,
        # The size of `layernorm`, and PyTorch in float32 as the lecture's models have it.
        ladder={
            "block_size": 8,
            "n_layer": 3,
            "n_head": 4,
            "n_embd": 32,
            "precision": "float32",
            "compile": "off",
        },
        branch=True,
        joins_counts=True,
        windows=True,
        c_kernels=True,
        planned=True,
    )
}
