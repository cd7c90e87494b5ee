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
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hornbook.config import Config as Config
    from hornbook.config import load_config as load_config
    from hornbook.config import preset as preset
    from hornbook.errors import HornbookError as HornbookError
    from hornbook.eval.loss import evaluate as evaluate
    from hornbook.lens.model import load as load
    from hornbook.models.attention import Head as Head
    from hornbook.models.attention import HeadLanguageModel as HeadLanguageModel
    from hornbook.models.attention import HeadsLanguageModel as HeadsLanguageModel
    from hornbook.models.attention import MultiHeadAttention as MultiHeadAttention
    from hornbook.models.averaging import AverageLanguageModel as AverageLanguageModel
    from hornbook.models.averaging import average_loop as average_loop
    from hornbook.models.averaging import average_matrix as average_matrix
    from hornbook.models.averaging import average_softmax as average_softmax
    from hornbook.models.averaging import average_weights as average_weights
    from hornbook.models.bigram import BigramLanguageModel as BigramLanguageModel
    from hornbook.models.gpt import GPT as GPT
    from hornbook.models.transformer import Block as Block
    from hornbook.models.transformer import FeedForward as FeedForward
    from hornbook.models.transformer import FeedForwardLanguageModel as FeedForwardLanguageModel
    from hornbook.models.transformer import LayerNormLanguageModel as LayerNormLanguageModel
    from hornbook.models.transformer import ResidualLanguageModel as ResidualLanguageModel
    from hornbook.report.tracing import trace as trace
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
    name: module
    for module, names in {
        "config": "Config load_config preset",
        "errors": "HornbookError",
        "eval.loss": "evaluate",
        "models.attention": "Head HeadLanguageModel HeadsLanguageModel MultiHeadAttention",
        "models.averaging": "AverageLanguageModel average_loop average_matrix average_softmax "
        "average_weights",
        "models.bigram": "BigramLanguageModel",
        "models.gpt": "GPT",
        "models.transformer": "Block FeedForward FeedForwardLanguageModel LayerNormLanguageModel "
        "ResidualLanguageModel",
        "report.tracing": "trace",
        "lens.model": "load",
        "text.batches": "batch get_batch",
        "text.corpus": "load_text",
        "text.tokenizer": "BPETokenizer ByteTokenizer CharTokenizer load_tokenizer",
        "training.loop": "train",
    }.items()
    for name in names.split()
}


def __getattr__(name: str) -> Any:
    """A public name, imported now that it is asked for.

    The first that needs torch also sets how torch's threads share this machine.
    """
    if name not in HOMES:
        raise AttributeError(f"module 'hornbook' has no attribute {name!r}")
    cores = importlib.import_module("hornbook.cores")
    cores.before_torch()
    found = getattr(importlib.import_module(f"hornbook.{HOMES[name]}"), name)
    if "torch" in sys.modules:
        share_cores()
    return found


@cache
def share_cores() -> None:
    """Once: torch's threads within a quota, and yielding while other programs compute."""
    importlib.import_module("hornbook.kernels.runtime").share_cores()


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
