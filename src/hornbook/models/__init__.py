"""The ladder of models: one protocol, one rung a class."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hornbook.config import ModelConfig
from hornbook.errors import ConfigError
from hornbook.kernels.ngrams import ngram_kernels
from hornbook.models.attention import (
    Head,
    HeadLanguageModel,
    HeadsLanguageModel,
    MultiHeadAttention,
)
from hornbook.models.averaging import AverageLanguageModel
from hornbook.models.bigram import BigramLanguageModel
from hornbook.models.context_counts import ContextCounts
from hornbook.models.gpt import GPT
from hornbook.models.language_model import LanguageModel
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.ngram import NGramLanguageModel
from hornbook.models.transformer import (
    Block,
    FeedForward,
    FeedForwardLanguageModel,
    LayerNormLanguageModel,
    ResidualLanguageModel,
)
from hornbook.ngram.model import NGramModel

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
    "outline",
    "use_ngram_kernels",
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


def use_ngram_kernels(model: torch.nn.Module) -> None:
    """Have every part of a model that reads n-grams use the C kernels, where it is on a CPU.

    Raises: NativeUnavailableError.
    """
    for part in model.modules():
        if isinstance(part, NGramLanguageModel | ContextCounts):
            part.kernels = ngram_kernels()


def outline(
    config: ModelConfig, vocab_size: int, counted: NGramModel | None = None
) -> LanguageModel:
    """The same model with names and shapes, and no numbers in it: on the device "meta".

    Raises: as `build`; RuntimeError for more elements than 64 bits can count.
    """
    with torch.device("meta"), _Uninitialized():
        return build(config, vocab_size, counted)


class _Uninitialized(TorchFunctionMode):
    """Leaves out all initialisation, which without numbers imports torch's compiler: 1.4 s."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
