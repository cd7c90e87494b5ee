"""Self-attention: the mean of the past, with weights that each token chooses for itself.

Shapes in names: B batch, T time, C n_embd, D head width, V vocabulary.
"""

import torch
from torch import Tensor, nn

from hornbook.config import ModelConfig, ModelSpec
from hornbook.errors import ConfigError
from hornbook.language import msg
from hornbook.models import averaging
from hornbook.models.averaging import softmax_weights
from hornbook.models.language_model import LanguageModel
from hornbook.models.registry import counted_on_meta


class Head(nn.Module):
    """One head: every position asks (query), every earlier one offers (key), and answers (value).

    Shapes: [B,T,C] -> [B,T,D].
    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1.
    """

    def __init__(self, n_embd: int, head_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.key = nn.Linear(n_embd, head_width, bias=False)
        self.query = nn.Linear(n_embd, head_width, bias=False)
        self.value = nn.Linear(n_embd, head_width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def weights(self, x_BTC: Tensor) -> Tensor:
        """How much each position listens to each before it: [B,T,C] -> [B,T,T], rows sum to 1."""
        q_BTD, k_BTD = self.query(x_BTC), self.key(x_BTC)
        # Divided by sqrt(D), scores of unit-variance vectors have variance 1; without it a wide
        # head's softmax would start out near one-hot.
        return softmax_weights(q_BTD @ k_BTD.transpose(-2, -1) * k_BTD.size(-1) ** -0.5)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.dropout(self.weights(x_BTC)) @ self.value(x_BTC)


class MultiHeadAttention(nn.Module):
    """Several narrow heads side by side, each with an eye for something else: [B,T,C] -> [B,T,C].

    `projection` mixes what they found before it joins a residual path.
    """

    def __init__(
        self, n_embd: int, n_head: int, dropout: float = 0.0, *, projection: bool = True
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(n_embd, n_embd // n_head, dropout) for _ in range(n_head))
        self.proj = nn.Linear(n_embd, n_embd) if projection else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        found_BTC = torch.cat([head(x_BTC) for head in self.heads], dim=-1)
        return self.dropout(self.proj(found_BTC))


class PositionedLanguageModel(LanguageModel):
    """What the rungs from `head` on share: who and where in, `blocks` in between, logits out.

    Attention by itself has no notion of place, so a learned vector for each of the block's
    positions is added to the token's.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, blocks: nn.Module) -> None:
        super().__init__(vocab_size, config.block_size)
        self.token_embedding_table = nn.Embedding(vocab_size, config.n_embd)
        self.position_embedding_table = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = blocks
        self.lm_head = nn.Linear(config.n_embd, vocab_size)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        lower = self.compute_dtype != torch.float32
        with torch.autocast(idx.device.type, dtype=self.compute_dtype, enabled=lower):
            who_BTC = self.token_embedding_table(idx)
            where_TC = self.position_embedding_table.weight[: idx.size(1)]
            logits_BTV = self.lm_head(self.blocks(who_BTC + where_TC))
        return self.logits_and_loss(logits_BTV, targets)


class HeadLanguageModel(PositionedLanguageModel):
    """One self-attention head, as wide as the embedding."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        head = Head(config.n_embd, config.n_embd, config.dropout)
        super().__init__(config, vocab_size, head)


class HeadsLanguageModel(PositionedLanguageModel):
    """Several heads, together as wide as the one was."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        heads = MultiHeadAttention(config.n_embd, config.n_head, config.dropout, projection=False)
        super().__init__(config, vocab_size, heads)


def head_activations(config: ModelConfig) -> float:
    """The numbers that heads, and an MLP beside them, keep of one position."""
    return 17.0 * config.n_embd + 4.3 * config.n_head * config.block_size


def check_heads(config: ModelConfig) -> None:
    """Check that the width splits into heads.

    Raises: ConfigError.
    """
    if config.n_embd % config.n_head:
        raise ConfigError(
            msg(
                "n_embd = {n_embd} does not split into n_head = {n_head} heads; a multiple of "
                "{n_head} does",
                n_embd=config.n_embd,
                n_head=config.n_head,
            )
        )


SPECS = {
    "head": ModelSpec(
        idea=msg("one attention head"),
        network=HeadLanguageModel,
        parameters=counted_on_meta(HeadLanguageModel),
        activations=head_activations,
        preset=averaging.SPECS["average"].preset,
    ),
    "heads": ModelSpec(
        idea=msg("several heads"),
        network=HeadsLanguageModel,
        parameters=counted_on_meta(HeadsLanguageModel),
        activations=head_activations,
        check=check_heads,
        preset={**averaging.SPECS["average"].preset, "n_head": 4},
    ),
}
