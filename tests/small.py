"""A small GPT that several tests share."""

import torch

import hornbook as hb
from hornbook.config import ModelConfig
from hornbook.models.schema import Schema

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
