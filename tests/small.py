"""A small GPT, a small text and a short training, which several tests share."""

from pathlib import Path

import torch

import hornbook as hb
from hornbook.config import Config, ModelConfig
from hornbook.models.schema import Schema

TEXT = "to be, or not to be: that is the question. whether 'tis nobler in the mind\n" * 30
SMALL = ModelConfig(block_size=16, n_layer=2, n_head=2, n_embd=32)


def small_gpt(
    vocab_size: int = 11, config: ModelConfig = SMALL, schema: Schema | None = None
) -> hb.GPT:
    """A GPT whose every weight is random: the zero-initialised ones too."""
    torch.manual_seed(0)
    model = hb.GPT(config, vocab_size, schema)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def small_config(text_path: Path, **values: object) -> Config:
    """Eight steps of a small GPT on a text."""
    return hb.preset("quick").override(
        **{
            "corpus": str(text_path),
            "block_size": 16,
            "n_embd": 32,
            "batch_size": 4,
            "steps": 8,
            "eval_interval": 3,
            "checkpoint_interval": 4,
            "sample_tokens": 5,
            "precision": "float32",
            **values,
        }
    )
