"""The ladder of models: one protocol, one rung a file."""

from hornbook.config import ModelConfig
from hornbook.models.bigram import BigramLanguageModel
from hornbook.models.gpt import GPT
from hornbook.models.language_model import LanguageModel

__all__ = ["GPT", "BigramLanguageModel", "LanguageModel", "build"]


def build(config: ModelConfig, vocab_size: int) -> LanguageModel:
    """The model that `config` describes, freshly initialised from torch's global generator."""
    match config.model:
        case "bigram":
            return BigramLanguageModel(vocab_size)
        case "gpt":
            return GPT(config, vocab_size)
