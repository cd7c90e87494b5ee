"""The ladder of models: one protocol, one rung a class."""

from collections.abc import Callable

from hornbook.config import ModelConfig
from hornbook.models.attention import (
    Head,
    HeadLanguageModel,
    HeadsLanguageModel,
    MultiHeadAttention,
)
from hornbook.models.averaging import AverageLanguageModel
from hornbook.models.bigram import BigramLanguageModel
from hornbook.models.gpt import GPT
from hornbook.models.language_model import LanguageModel
from hornbook.models.transformer import (
    Block,
    FeedForward,
    FeedForwardLanguageModel,
    LayerNormLanguageModel,
    ResidualLanguageModel,
)

__all__ = [
    "GPT",
    "AverageLanguageModel",
    "BigramLanguageModel",
    "Block",
    "FeedForward",
    "FeedForwardLanguageModel",
    "Head",
    "HeadLanguageModel",
    "HeadsLanguageModel",
    "LanguageModel",
    "LayerNormLanguageModel",
    "MultiHeadAttention",
    "ResidualLanguageModel",
    "build",
]


MODELS: dict[str, Callable[[ModelConfig, int], LanguageModel]] = {
    "bigram": lambda _, vocab_size: BigramLanguageModel(vocab_size),
    "average": AverageLanguageModel,
    "head": HeadLanguageModel,
    "heads": HeadsLanguageModel,
    "feedforward": FeedForwardLanguageModel,
    "residual": ResidualLanguageModel,
    "layernorm": LayerNormLanguageModel,
    "gpt": GPT,
}


def build(config: ModelConfig, vocab_size: int) -> LanguageModel:
    """The model that `config` describes, freshly initialised from torch's global generator."""
    return MODELS[config.model](config, vocab_size)
