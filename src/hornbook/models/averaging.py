"""The mathematical trick: the mean of the past in three forms, and the rung built on it.

Attention is the last form with weights that are learned instead of all equal.

Shapes in names: B batch, T time, C channels, V vocabulary.
"""

import torch
from torch import Tensor, nn

from hornbook.config import ModelConfig, ModelSpec
from hornbook.language import msg
from hornbook.models import bigram
from hornbook.models.language_model import LanguageModel


def average_loop(x_BTC: Tensor) -> Tensor:
    """The mean of each position and all before it, one position at a time: the reference.

    Shapes: [B,T,C] -> [B,T,C].
    """
    mean_BTC = torch.empty_like(x_BTC)
    for b in range(x_BTC.size(0)):
        for t in range(x_BTC.size(1)):
            mean_BTC[b, t] = x_BTC[b, : t + 1].mean(dim=0)
    return mean_BTC


def average_weights(
    length: int, *, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Tensor:
    """The lower-triangular matrix whose rows each share 1 equally among the positions so far.

    Shapes: [length,length]; row t holds 1 / (t + 1) up to the diagonal and 0 after it.
    """
    visible_TT = torch.ones(length, length, dtype=dtype, device=device).tril()
    return visible_TT / visible_TT.sum(dim=1, keepdim=True)


def average_matrix(x_BTC: Tensor) -> Tensor:
    """`average_loop` as one product with `average_weights`; same shapes."""
    return average_weights(x_BTC.size(1), dtype=x_BTC.dtype, device=x_BTC.device) @ x_BTC


def softmax_weights(scores_TT: Tensor) -> Tensor:
    """A softmax over each row of scores, with the future hidden by minus infinity.

    Equal scores give `average_weights`. Shapes: [..., T,T] -> [..., T,T]; each row sums to 1.
    """
    future_TT = torch.ones_like(scores_TT, dtype=torch.bool).triu(1)
    return scores_TT.masked_fill(future_TT, float("-inf")).softmax(dim=-1)


def average_softmax(x_BTC: Tensor) -> Tensor:
    """`average_loop` with weights from a softmax over scores of zero; same shapes."""
    length = x_BTC.size(1)
    return softmax_weights(x_BTC.new_zeros(length, length)) @ x_BTC


class AverageLanguageModel(LanguageModel):
    """The second rung: the mean of the past beside the token itself.

    A bag of characters: which ones came before counts, their order does not.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(vocab_size, config.block_size)
        self.token_embedding_table = nn.Embedding(vocab_size, config.n_embd)
        self.lm_head = nn.Linear(2 * config.n_embd, vocab_size)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x_BTC = self.token_embedding_table(idx)
        beside_BTC = torch.cat((x_BTC, average_matrix(x_BTC)), dim=-1)
        return self.logits_and_loss(self.lm_head(beside_BTC), targets)


SPECS = {
    "average": ModelSpec(
        idea=msg("the mean of the past"),
        network=AverageLanguageModel,
        parameters=lambda config, vocab_size: 3 * vocab_size * config.n_embd + vocab_size,
        activations=lambda config: 8.0 * config.n_embd,
        # What the lecture's small models share.
        preset={
            **bigram.SPECS["bigram"].preset,
            "n_embd": 32,
            "n_head": 1,
            "n_layer": 1,
            "weight_decay": 0.01,
            "steps": 5000,
            "eval_interval": 500,
            "checkpoint_interval": 500,
        },
    )
}
