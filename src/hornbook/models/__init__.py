"""The models, from a table of bigrams to the GPT: one protocol, one class each.

A name is imported when it is first used: a model's spec can be read, and a GPT's weights be
described, without importing torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hornbook.models.attention import Head as Head
    from hornbook.models.attention import HeadLanguageModel as HeadLanguageModel
    from hornbook.models.attention import HeadsLanguageModel as HeadsLanguageModel
    from hornbook.models.attention import MultiHeadAttention as MultiHeadAttention
    from hornbook.models.averaging import AverageLanguageModel as AverageLanguageModel
    from hornbook.models.bigram import BigramLanguageModel as BigramLanguageModel
    from hornbook.models.gpt import GPT as GPT
    from hornbook.models.language_model import LanguageModel as LanguageModel
    from hornbook.models.mixture import GPTWithCounts as GPTWithCounts
    from hornbook.models.ngram import NGramLanguageModel as NGramLanguageModel
    from hornbook.models.registry import build as build
    from hornbook.models.registry import meta_model as meta_model
    from hornbook.models.registry import use_ngram_kernels as use_ngram_kernels
    from hornbook.models.transformer import Block as Block
    from hornbook.models.transformer import FeedForward as FeedForward
    from hornbook.models.transformer import FeedForwardLanguageModel as FeedForwardLanguageModel
    from hornbook.models.transformer import LayerNormLanguageModel as LayerNormLanguageModel
    from hornbook.models.transformer import ResidualLanguageModel as ResidualLanguageModel

HOMES = {
    "AverageLanguageModel": "averaging",
    "BigramLanguageModel": "bigram",
    "Block": "transformer",
    "FeedForward": "transformer",
    "FeedForwardLanguageModel": "transformer",
    "GPT": "gpt",
    "GPTWithCounts": "mixture",
    "Head": "attention",
    "HeadLanguageModel": "attention",
    "HeadsLanguageModel": "attention",
    "LanguageModel": "language_model",
    "LayerNormLanguageModel": "transformer",
    "MultiHeadAttention": "attention",
    "NGramLanguageModel": "ngram",
    "ResidualLanguageModel": "transformer",
    "build": "registry",
    "meta_model": "registry",
    "use_ngram_kernels": "registry",
}


def __getattr__(name: str) -> Any:
    """A model's class or builder, imported now that it is used."""
    if name not in HOMES:
        raise AttributeError(f"module 'hornbook.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hornbook.models.{HOMES[name]}"), name)
