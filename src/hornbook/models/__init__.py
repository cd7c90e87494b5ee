"""The ladder of models: one protocol, one rung a class."""

from collections.abc import Callable

from hornbook.config import ModelConfig
from hornbook.counting import NGramModel
from hornbook.errors import ConfigError
from hornbook.models.attention import (
    Head,
    HeadLanguageModel,
    HeadsLanguageModel,
    MultiHeadAttention,
)
from hornbook.models.averaging import AverageLanguageModel
from hornbook.models.bigram import BigramLanguageModel
from hornbook.models.gpt import GPT
from hornbook.models.joint import GPTWithCounts
from hornbook.models.language_model import LanguageModel
from hornbook.models.ngram import NGramLanguageModel
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
    "GPTWithCounts",
    "Head",
    "HeadLanguageModel",
    "HeadsLanguageModel",
    "LanguageModel",
    "LayerNormLanguageModel",
    "MultiHeadAttention",
    "NGramLanguageModel",
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


def build(config: ModelConfig, vocab_size: int, counted: NGramModel | None = None) -> LanguageModel:
    """The model that `config` describes, freshly initialised from torch's global generator.

    Raises: ConfigError when it needs counts and none are given.
    """
    if not config.reads_counts:
        return MODELS[config.model](config, vocab_size)
    if counted is None:
        raise ConfigError(f"a {config.kind} model is made from counts: give build() an NGramModel")
    counts = NGramLanguageModel(counted, config.context_size)
    if config.model == "ngram":
        return counts
    return GPTWithCounts(GPT(config, vocab_size), counts)
