"""Small models of every kind, away from their initialisation, with a tokenizer each."""

import numpy as np
import torch

import hornbook as hb
from hornbook.config import ModelConfig
from hornbook.models.language_model import LanguageModel
from hornbook.models.registry import build
from hornbook.ngram.model import NGramModel
from hornbook.text.tokenizer import Tokenizer

TEXT = "to be, or not to be: that is the question. 나의 책은 나의 것이다.\n" * 6
LECTURE = ("bigram", "average", "head", "heads", "feedforward", "residual", "layernorm")
KINDS = (*LECTURE, "gpt", "joined", "ngram")
WITH_LAYERS = tuple(kind for kind in KINDS if kind not in ("bigram", "ngram"))
TOKENIZERS: dict[str, Tokenizer] = {
    "char": hb.CharTokenizer.from_text(TEXT),
    "byte": hb.ByteTokenizer(),
    "bpe": hb.BPETokenizer.train(TEXT, 280),
}


def model_of(kind: str, vocab_size: int | None = None) -> LanguageModel:
    """A model of a kind, of 2 layers and 2 heads where it has them, with random weights."""
    characters = TOKENIZERS["char"]
    vocab_size = vocab_size or characters.vocab_size
    joined = kind == "joined"
    name = "gpt" if joined else kind
    config = ModelConfig(
        model=name, block_size=48, n_layer=2, n_head=2, n_embd=16, with_counts=joined
    )
    tokens = np.array(characters.encode(TEXT)) % vocab_size
    torch.manual_seed(0)
    model = build(config, vocab_size, NGramModel.fit(tokens, vocab_size, order=4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()
