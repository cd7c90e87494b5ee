"""hornbook: language models from letters up, that you can see through.

    import hornbook as hb
    text = hb.load_text("shakespeare")
    tokenizer = hb.CharTokenizer.from_text(text)
    for metrics in hb.train(hb.preset("quick").override(corpus="shakespeare"), out="my-run"):
        print(metrics.step, metrics.train_loss)
    print(hb.load("my-run").generate("ROMEO:"))

The names below are the public surface. They are imported when first used, so that importing
hornbook itself is quick and does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hornbook.config import Config as Config
    from hornbook.config import load_config as load_config
    from hornbook.config import preset as preset
    from hornbook.errors import HornbookError as HornbookError
    from hornbook.eval.loss import evaluate as evaluate
    from hornbook.models import GPT as GPT
    from hornbook.models import AverageLanguageModel as AverageLanguageModel
    from hornbook.models import BigramLanguageModel as BigramLanguageModel
    from hornbook.models import Block as Block
    from hornbook.models import FeedForward as FeedForward
    from hornbook.models import FeedForwardLanguageModel as FeedForwardLanguageModel
    from hornbook.models import Head as Head
    from hornbook.models import HeadLanguageModel as HeadLanguageModel
    from hornbook.models import HeadsLanguageModel as HeadsLanguageModel
    from hornbook.models import LayerNormLanguageModel as LayerNormLanguageModel
    from hornbook.models import MultiHeadAttention as MultiHeadAttention
    from hornbook.models import ResidualLanguageModel as ResidualLanguageModel
    from hornbook.models.averaging import average_loop as average_loop
    from hornbook.models.averaging import average_matrix as average_matrix
    from hornbook.models.averaging import average_softmax as average_softmax
    from hornbook.models.averaging import average_weights as average_weights
    from hornbook.report.tracing import trace as trace
    from hornbook.runs.load import load as load
    from hornbook.text.batches import batch as batch
    from hornbook.text.batches import get_batch as get_batch
    from hornbook.text.corpus import load_text as load_text
    from hornbook.text.tokenizer import BPETokenizer as BPETokenizer
    from hornbook.text.tokenizer import ByteTokenizer as ByteTokenizer
    from hornbook.text.tokenizer import CharTokenizer as CharTokenizer
    from hornbook.text.tokenizer import load_tokenizer as load_tokenizer
    from hornbook.training.loop import train as train

# Where each public name lives; a name is imported when it is first used.
HOMES = {
    "AverageLanguageModel": "models",
    "BPETokenizer": "text.tokenizer",
    "BigramLanguageModel": "models",
    "Block": "models",
    "ByteTokenizer": "text.tokenizer",
    "CharTokenizer": "text.tokenizer",
    "Config": "config",
    "FeedForward": "models",
    "FeedForwardLanguageModel": "models",
    "GPT": "models",
    "Head": "models",
    "HeadLanguageModel": "models",
    "HeadsLanguageModel": "models",
    "HornbookError": "errors",
    "LayerNormLanguageModel": "models",
    "MultiHeadAttention": "models",
    "ResidualLanguageModel": "models",
    "average_loop": "models.averaging",
    "average_matrix": "models.averaging",
    "average_softmax": "models.averaging",
    "average_weights": "models.averaging",
    "batch": "text.batches",
    "evaluate": "eval.loss",
    "get_batch": "text.batches",
    "load": "runs.load",
    "load_config": "config",
    "load_text": "text.corpus",
    "load_tokenizer": "text.tokenizer",
    "preset": "config",
    "trace": "report.tracing",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    """A public name, imported now that it is asked for."""
    if name not in HOMES:
        raise AttributeError(f"module 'hornbook' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hornbook.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
